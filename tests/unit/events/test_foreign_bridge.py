"""A bridge over a source in memory: whatever becomes of the source, nothing false stays."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shepherd_events.block_hash import block_hashes, root_hash
from shepherd_events.events import BlockEvent, BlocksStored
from shepherd_events.foreign.bridge import MAX_RANKS, Bridge, BridgePatience
from shepherd_events.foreign.cursor import ForeignCursor, Verdict
from shepherd_events.foreign.dialects import VLLM
from shepherd_events.foreign.memory_source import MemorySource
from shepherd_events.foreign.msgpack_form import encode_batch
from shepherd_events.resident_set import ResidentSet

ROOT = root_hash(b"model")


class Sink:
    """A stream whose reader is never behind."""

    def __init__(self) -> None:
        self.residents = ResidentSet()
        self.sizes: list[int] = []

    def publish(self, events: Sequence[BlockEvent]) -> None:
        for event in events:
            self.residents.apply(event)
            if isinstance(event, BlocksStored):
                self.sizes.append(len(event.block_hashes))


class Running:
    """A bridge and its source, stepped by hand."""

    def __init__(
        self, *, block_size: int = 0, rank: int = 0, can_replay: bool = True, ring: int = 100
    ) -> None:
        self.source = MemorySource(can_replay=can_replay, ring_messages=ring)
        self.sinks: dict[int, Sink] = {}
        self.now = 0.0
        self.sent = 0
        self.bridge = Bridge(
            self.source,
            VLLM,
            lambda rank, _: self.sinks.setdefault(rank, Sink()),
            model="model",
            block_size=block_size,
            rank=rank,
            patience=BridgePatience(probe_s=5.0, gone_after_s=10.0),
            clock=lambda: self.now,
        )

    def step(self, wait_s: float = 0.0) -> None:
        """Let time go by, then let everything that happened be dealt with."""

        async def work() -> None:
            while True:
                await self.bridge.step()
                if not self.source.num_waiting:
                    await self.bridge.step()
                    return

        self.now += wait_s
        asyncio.run(work())

    def say(self, *events: object, live: bool = True, rank: int | None = 0) -> None:
        self.sent += 1
        self.source.send(encode_batch(float(self.sent), list(events), rank), live=live)  # type: ignore[arg-type]

    def holds(self, rank: int = 0) -> set[int]:
        """Names of the blocks that the stream says are there."""
        sink = self.sinks.get(rank)
        ours = {ours_of(name): name for name in range(200)}
        return {ours[held] for held in sink.residents.hashes()} if sink else set()


def tokens_of(name: int) -> list[int]:
    return [name, name]


def ours_of(name: int) -> int:
    return next(iter(block_hashes(ROOT, array("I", tokens_of(name)), 2)))


def stored(*names: int) -> list[dict[str, object]]:
    """Blocks that are roots of their own."""
    return [
        {
            "type": "BlockStored",
            "block_hashes": [name],
            "parent_block_hash": None,
            "token_ids": tokens_of(name),
            "block_size": 2,
        }
        for name in names
    ]


def removed(*names: int) -> dict[str, object]:
    return {"type": "BlockRemoved", "block_hashes": list(names)}


def test_what_is_said_is_held() -> None:
    running = Running()
    running.say(*stored(1, 2))
    running.say(removed(1))
    running.step()

    assert running.holds() == {2}
    assert running.bridge.counts.messages == 2


def test_what_was_said_before_the_bridge_came_is_replayed() -> None:
    running = Running()
    running.say(*stored(1), live=False)
    running.say(*stored(2))
    running.step()

    assert running.holds() == {1, 2}
    assert (running.bridge.counts.replays, running.bridge.counts.gaps) == (1, 0)


def test_a_missing_message_is_replayed_and_what_follows_is_not_taken_twice() -> None:
    running = Running()
    running.say(*stored(1))
    running.step()
    running.say(*stored(2), live=False)
    running.say(removed(1))
    running.say(*stored(3))
    running.step()

    assert running.holds() == {2, 3}
    counts = running.bridge.counts
    assert (counts.gaps, counts.gaps_unrecovered, counts.messages) == (1, 0, 4)


def test_a_hole_in_a_replay_is_asked_for_again() -> None:
    running = Running()
    running.say(*stored(1))
    running.step()
    for name in (2, 3, 4):
        running.say(*stored(name), live=False)
    running.source.replay_losses = {2}
    running.say(*stored(5))
    running.step()
    assert running.holds() == {4, 5}, "it was asked for in vain, three times"
    assert running.bridge.counts.gaps_unrecovered == 1

    running.source.replay_losses = set()
    running.say(*stored(6), live=False)
    running.step(wait_s=6.0)
    assert running.holds() == {4, 5, 6}


def test_a_hole_for_good_that_a_silence_brings_to_light_costs_what_was_held() -> None:
    running = Running()
    running.say(*stored(1))
    running.step()
    running.say(removed(1), live=False)
    running.say(*stored(2), live=False)
    running.source.replay_losses = {1}
    running.step(wait_s=6.0)

    assert running.holds() == {2}
    assert (running.bridge.counts.gaps_unrecovered, running.bridge.counts.replays) == (1, 4)


@pytest.mark.parametrize("can_replay", [False, True])
def test_after_a_gap_that_nothing_closes_no_block_is_held_that_was_before(
    can_replay: bool,
) -> None:
    running = Running(can_replay=can_replay, ring=1)
    running.say(*stored(1))
    running.step()
    running.say(removed(1), live=False)
    running.say(*stored(2))
    running.step()

    assert running.holds() == {2}
    assert (running.bridge.counts.gaps_unrecovered, running.bridge.counts.messages) == (1, 2)


def test_a_lost_last_message_is_found_after_a_silence() -> None:
    running = Running()
    running.say(*stored(1))
    running.step()
    running.say(removed(1), live=False)
    running.step(wait_s=4.0)
    assert running.holds() == {1}
    running.step(wait_s=2.0)

    assert running.holds() == set()


@pytest.mark.parametrize("can_replay", [False, True])
@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("others", [0, 1, 2, 3, 5])
def test_the_blocks_of_a_publisher_that_was_started_anew_are_gone(
    can_replay: bool, told: bool, others: int
) -> None:
    running = Running(can_replay=can_replay)
    running.say(*stored(1))
    running.say(*stored(2))
    running.step()
    running.source.restart(told=told)
    for name in range(10, 10 + others):
        running.say(*stored(name))
    running.step()
    if can_replay:
        running.step(wait_s=6.0)

    if told or can_replay or others:  # else there is nothing by which it could be noticed
        assert running.holds() == set(range(10, 10 + others))


def test_another_run_is_told_by_its_bytes_where_its_numbers_fit() -> None:
    running = Running()
    running.say(*stored(1))
    running.step()
    running.source.restart(told=False)
    running.say(*stored(2), live=False)
    running.say(*stored(3), live=False)
    running.step(wait_s=6.0)

    assert running.holds() == {2, 3}
    assert running.bridge.counts.restarts == 1


def test_another_run_behind_a_proxy_is_told_from_copies_of_what_was_replayed() -> None:
    running = Running()
    running.say(*stored(1), live=False)
    running.say(*stored(2))
    running.step()
    assert running.bridge.counts.duplicates == 1
    running.say(*stored(3), live=False)
    running.step(wait_s=6.0)
    running.source.restart(told=False)
    for name in (11, 12, 13):
        running.say(*stored(name))
    running.step()

    assert running.holds() == {11, 12, 13}


def test_a_replay_that_does_not_reach_back_proves_a_loss() -> None:
    running = Running(ring=1)
    running.say(*stored(1))
    running.step()
    running.say(removed(1), live=False)
    running.say(*stored(2), live=False)
    running.step(wait_s=6.0)

    assert running.holds() == {2}
    assert running.bridge.counts.gaps_unrecovered == 1


def test_a_source_that_is_gone_for_long_holds_nothing() -> None:
    running = Running()
    running.say(*stored(1))
    running.source.leave()
    running.step()
    running.step(wait_s=9.0)
    assert (running.holds(), running.bridge.is_connected) == ({1}, False)
    running.step(wait_s=2.0)

    assert running.holds() == set()
    assert running.bridge.counts.departures == 1
    running.step(wait_s=60.0)
    assert running.bridge.counts.departures == 1


def test_a_connection_that_broke_and_came_back_costs_nothing_where_there_is_a_replay() -> None:
    running = Running()
    running.say(*stored(1))
    running.source.leave()
    running.step()
    running.say(*stored(2), live=False)
    running.source.come_back()
    running.step()

    assert running.holds() == {1, 2}
    assert running.bridge.counts.restarts == 0


def test_a_source_that_came_back_and_does_not_answer_may_be_another_one() -> None:
    running = Running()
    running.say(*stored(1))
    running.step()
    running.source.answers = False
    running.source.restart()
    running.say(*stored(2))
    running.step()

    assert running.holds() == {2}
    assert running.bridge.counts.failed_replays == 3


@pytest.mark.parametrize(
    "message", [{"type": "BlockPinned"}, {"type": "BlockRemoved"}, ["BlockRemoved", 7], 7]
)
def test_after_an_event_that_makes_no_sense_nothing_is_held(message: object) -> None:
    running = Running()
    running.say(*stored(1))
    running.say(message)
    running.say(*stored(2))
    running.step()

    assert running.holds() == {2}
    assert running.bridge.translations[0].unreadable_events == 1


def test_after_a_message_that_holds_no_batch_nothing_is_held() -> None:
    running = Running()
    running.say(*stored(1))
    running.source.send(b"\xc1")
    running.say(*stored(2))
    running.step()

    assert running.holds() == {2}
    assert (running.bridge.counts.undecodable, running.bridge.counts.gaps) == (1, 0)


def test_every_rank_has_a_stream_and_a_cache_of_its_own() -> None:
    running = Running()
    running.say(*stored(1), rank=0)
    running.say(*stored(1, 2), rank=7)
    running.say(removed(1), rank=0)
    running.say(removed(1), rank=3)
    running.step()

    assert (running.holds(0), running.holds(7), sorted(running.sinks)) == (set(), {1, 2}, [0, 7])


def test_no_more_streams_are_opened_than_there_may_be_ranks() -> None:
    running = Running()
    for rank in range(MAX_RANKS + 2):
        running.say(*stored(1), rank=rank)
    running.step()

    assert len(running.sinks) == MAX_RANKS
    assert running.bridge.counts.ranks_refused == 2


def test_with_a_block_size_the_stream_begins_at_once() -> None:
    running = Running(block_size=2, rank=4)
    assert list(running.sinks) == [4]
    running.say(*stored(1), rank=None)
    running.step()

    assert running.holds(4) == {1}


def test_a_long_run_is_told_in_parts() -> None:
    running = Running()
    names = list(range(1, 2501))
    running.say(
        {
            "type": "BlockStored",
            "block_hashes": names,
            "token_ids": [0] * 5000,
            "block_size": 2,
        }
    )
    running.step()

    assert running.sinks[0].sizes == [1024, 1024, 452]
    assert len(running.sinks[0].residents) == 2500


def test_the_cursor_s_table() -> None:
    cursor = ForeignCursor()
    assert cursor.begin_replay() == 0
    assert cursor.live(5, b"five") is Verdict.DELIVER
    assert cursor.live(6, b"six") is Verdict.DELIVER
    assert cursor.live(8, b"eight") is Verdict.GAP
    assert cursor.begin_replay() == 6
    assert cursor.replayed(6, b"six") is Verdict.DUPLICATE
    assert cursor.replayed(7, b"seven") is Verdict.DELIVER
    assert cursor.replayed(9, b"nine") is Verdict.GAP
    assert cursor.replayed(8, b"eight") is Verdict.DELIVER
    assert cursor.end_replay() is Verdict.DUPLICATE
    assert cursor.live(8, b"eight") is Verdict.DUPLICATE
    assert cursor.live(8, b"eight") is Verdict.RESTARTED
    assert repr(cursor) == "<ForeignCursor expects 9>"
    for begin, verdict in (((8, b"other"), Verdict.RESTARTED), ((9, b"nine"), Verdict.LOST)):
        cursor.begin_replay()
        assert cursor.replayed(*begin) is verdict
    cursor.begin_replay()
    assert cursor.end_replay() is Verdict.RESTARTED
    cursor.reset()
    assert cursor.live(0, b"zero") is Verdict.DELIVER


class BridgeMachine(RuleBasedStateMachine):
    """A publisher that loses, forgets and restarts, and a bridge that may only know too little."""

    def __init__(self) -> None:
        super().__init__()
        self.running = Running(ring=6)
        self.truth: set[int] = set()
        self.settled = True
        self.must_arrive = False
        """The first message after a restart that a proxy hides: without it nobody can know."""

    def say(self, live: bool, *events: object) -> None:
        self.running.say(*events, live=live or self.must_arrive)
        self.must_arrive = self.settled = False

    @rule(name=st.integers(0, 8), live=st.booleans())
    def store(self, name: int, live: bool) -> None:
        self.truth.add(name)
        self.say(live, *stored(name))

    @rule(name=st.integers(0, 8), live=st.booleans())
    def remove(self, name: int, live: bool) -> None:
        self.truth.discard(name)
        self.say(live, removed(name))

    @rule(told=st.booleans())
    def restart(self, told: bool) -> None:
        self.truth.clear()
        self.running.source.restart(told=told)
        self.must_arrive = not told
        self.settled = False

    @rule(offsets=st.sets(st.integers(0, 3), min_size=1))
    def lose_replays(self, offsets: set[int]) -> None:
        """Some of the next messages will be missing from every replay."""
        source = self.running.source
        source.replay_losses = {source._next_seq + offset for offset in offsets}

    @rule(answers=st.booleans())
    def answer(self, answers: bool) -> None:
        self.running.source.answers = answers

    @rule()
    def read(self) -> None:
        self.running.step()

    @rule(whole=st.booleans())
    def settle(self, whole: bool) -> None:
        """After a silence in which replays are answered, with holes or whole, what is held is true.

        Of a hole at the very end nobody can know.
        """
        source = self.running.source
        if whole or source._next_seq - 1 in source.replay_losses:
            source.replay_losses = set()
        self.running.source.answers = True
        self.running.step()
        self.running.step(wait_s=6.0)
        self.settled = True

    @invariant()
    def nothing_false_stays(self) -> None:
        if self.settled:
            assert self.running.holds() <= self.truth


TestBridge = BridgeMachine.TestCase
TestBridge.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
