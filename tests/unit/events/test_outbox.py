from __future__ import annotations

from array import array

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shepherd_events.events import (
    BlockBatch,
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
    Goodbye,
    Tombstone,
)
from shepherd_events.outbox import (
    FULL_FRAME_BYTES,
    FULL_FRAME_EVENTS,
    NumberedBody,
    Outbox,
    approximate_bytes,
)


def removed(block_hash: int) -> BlocksRemoved:
    return BlocksRemoved(array("Q", [block_hash]))


def taken(outbox: Outbox) -> list[NumberedBody]:
    numbered = []
    while (body := outbox.take()) is not None:
        numbered.append(body)
    return numbered


def test_events_that_wait_leave_in_one_frame_stamped_when_it_began() -> None:
    outbox = Outbox(max_events=10)

    assert outbox.add_events((removed(1), removed(2)), 100)
    assert outbox.head_seq == 2
    assert outbox.add_events((removed(3),), 200)
    assert outbox.head_seq == 2

    batch = BlockBatch((removed(1), removed(2), removed(3)))
    assert taken(outbox) == [NumberedBody(2, 2, 100, batch)]


def test_what_was_taken_is_not_joined() -> None:
    outbox = Outbox(max_events=10)
    outbox.add_events((removed(1),), 100)
    first = outbox.take()
    outbox.add_events((removed(2),), 200)

    assert first == NumberedBody(2, 2, 100, BlockBatch((removed(1),)))
    assert taken(outbox) == [NumberedBody(3, 3, 200, BlockBatch((removed(2),)))]


def test_another_body_keeps_its_place_between_events() -> None:
    outbox = Outbox(max_events=10)
    outbox.add_events((removed(1),), 1)
    outbox.add(Goodbye("a"), 2)
    outbox.add_events((removed(2),), 3)

    assert [numbered.body for numbered in taken(outbox)] == [
        BlockBatch((removed(1),)),
        Goodbye("a"),
        BlockBatch((removed(2),)),
    ]


def test_a_sealed_frame_is_not_joined() -> None:
    outbox = Outbox(max_events=10)
    outbox.add_events((removed(1),), 1)
    outbox.seal()
    outbox.add_events((removed(2),), 2)

    assert [numbered.seq for numbered in taken(outbox)] == [2, 3]


def test_a_frame_is_full_at_so_many_events() -> None:
    outbox = Outbox(max_events=10_000)
    for _ in range(FULL_FRAME_EVENTS + 1):
        outbox.add_events((removed(1),), 1)

    assert [numbered.num_events for numbered in taken(outbox)] == [FULL_FRAME_EVENTS, 1]


def test_a_frame_is_full_at_so_many_bytes_and_a_larger_call_leaves_whole() -> None:
    outbox = Outbox(max_events=10_000)
    large = BlocksStored(array("Q", [1]), None, array("I", range(FULL_FRAME_BYTES // 4)), 0)
    outbox.add_events((removed(1),), 1)
    outbox.add_events((large, large), 1)
    outbox.add_events((removed(2),), 1)

    assert [numbered.num_events for numbered in taken(outbox)] == [1, 2, 1]


def test_what_does_not_fit_consumes_a_number_and_leaves_a_tombstone() -> None:
    outbox = Outbox(max_events=2)
    assert outbox.add_events((removed(1),), 1)
    assert not outbox.add_events((removed(2), removed(3)), 2)
    assert not outbox.add_events((removed(4), removed(5)), 3)
    assert outbox.add_events((removed(6),), 4)
    assert not outbox.add(Goodbye("dropped"), 5)
    assert outbox.add(Goodbye("kept"), 6, even_if_full=True)

    assert outbox.dropped_events == 5
    assert outbox.head_seq == 7
    assert taken(outbox) == [
        NumberedBody(2, 2, 1, BlockBatch((removed(1),))),
        NumberedBody(3, 4, 2, Tombstone(3, 4, "queue full")),
        NumberedBody(5, 5, 4, BlockBatch((removed(6),))),
        NumberedBody(6, 6, 5, Tombstone(6, 6, "queue full")),
        NumberedBody(7, 7, 6, Goodbye("kept")),
    ]


def test_sizes_are_near_what_the_events_take() -> None:
    stored = BlocksStored(array("Q", [1, 2]), None, array("I", range(32)), 0)

    assert approximate_bytes(stored) == 32 + 2 * 8 + 32 * 4
    assert approximate_bytes(removed(1)) == 32 + 8
    assert approximate_bytes(BlocksCleared()) == 32


def test_what_waits_and_since_when_is_known_until_it_is_taken() -> None:
    outbox = Outbox(max_events=10)
    assert (outbox.num_bytes, outbox.oldest_unix_ns) == (0, None)
    outbox.add_events((removed(1),), 100)
    outbox.add_events((removed(2), removed(3)), 200)
    outbox.add(Goodbye(""), 300)

    assert (len(outbox), outbox.num_bytes, outbox.oldest_unix_ns) == (2, 3 * 40, 100)
    outbox.take()
    assert (len(outbox), outbox.num_bytes, outbox.oldest_unix_ns) == (1, 0, 300)
    outbox.take()
    assert (outbox.num_bytes, outbox.oldest_unix_ns) == (0, None)


class OutboxMachine(RuleBasedStateMachine):
    """Every number once and in order; every event once, or in a tombstone's count."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox(max_events=6)
        self.told = 0
        self.accepted: list[int] = []
        self.dropped = 0
        self.received: list[int] = []
        self.last_seq = 1

    @rule(count=st.integers(1, 4))
    def tell(self, count: int) -> None:
        events = tuple(removed(self.told + i + 1) for i in range(count))
        self.told += count
        before = self.outbox.head_seq
        if self.outbox.add_events(events, 0):
            self.accepted.extend(event.block_hashes[0] for event in events)
        else:
            self.dropped += count
            assert self.outbox.head_seq == before + 1

    @rule()
    def seal(self) -> None:
        self.outbox.seal()

    @rule()
    def tell_a_turn(self) -> None:
        if not self.outbox.add(Goodbye(""), 0):
            self.dropped += 1

    @rule()
    def take(self) -> None:
        numbered = self.outbox.take()
        if numbered is None:
            assert self.last_seq == self.outbox.head_seq
            return
        assert numbered.first_seq == self.last_seq + 1
        assert numbered.seq >= numbered.first_seq
        self.last_seq = numbered.seq
        if isinstance(numbered.body, BlockBatch):
            for event in numbered.body.events:
                assert isinstance(event, BlocksRemoved)
                self.received.extend(event.block_hashes)

    @invariant()
    def nothing_is_lost_or_repeated(self) -> None:
        assert self.received == self.accepted[: len(self.received)]
        assert self.outbox.dropped_events == self.dropped
        assert len(self.accepted) - len(self.received) <= 6


TestOutbox = OutboxMachine.TestCase
TestOutbox.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
