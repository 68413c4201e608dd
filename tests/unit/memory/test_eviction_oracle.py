"""Whatever caches, streams, clocks and crashes do: archived is what a slow, obvious list says.

Two workers serve two sessions; blocks are evicted, copied to the host, stored again;
streams end, have gaps, in which whole requests are lost, and are put right by replay or
snapshot; memory is killed.  The oracle holds sets of blocks and looks through all turns
after every step.  What chance tells seldom is told by hand below.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shepherd_events.events import (
    BlockBatch,
    BlockHash,
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
    Frame,
    StreamId,
    Tier,
)
from shepherd_events.stream_cursor import Position
from shepherd_memory.arrivals import StreamEnded, StreamReplaced
from shepherd_memory.fake import FakeWorker, spell
from shepherd_memory.grace import LONGEST_BURST

if TYPE_CHECKING:
    from conftest import World

GRACE = 100
BLOCK = 4
WORKERS = ("w1", "w2")
SESSIONS = ("s", "o")
workers = st.sampled_from(WORKERS)
sessions = st.sampled_from(SESSIONS)
places = st.integers(0, 12)


@dataclass
class Talk:
    """A conversation as its client knows it, and what memory was told of it."""

    said: list[tuple[str, str]] = field(default_factory=list)
    heard: list[tuple[str, str]] = field(default_factory=list)
    heard_its_end: bool = False

    def turns(self) -> list[set[int]]:
        """The full blocks of each turn that memory knows, counted token by token."""
        hashes = FakeWorker().blocks_of(self.heard)
        ends, turns = 0, []
        for place in range(0, len(self.heard), 2):
            start, ends = ends, ends + len(spell(self.heard[place : place + 2]))
            touched = {token // BLOCK for token in range(start, ends)}
            turns.append({hashes[block] for block in touched if block < len(hashes)})
        return turns


class EvictionMachine(RuleBasedStateMachine):
    make_world: ClassVar[type[World]]

    @initialize()
    def begin(self) -> None:
        self.directory = TemporaryDirectory()
        self.world = self.make_world(Path(self.directory.name), grace_ns=GRACE)
        self.workers = {name: FakeWorker(name) for name in WORKERS}
        self.talks = {name: Talk() for name in SESSIONS}
        self.held: dict[tuple[str, Tier], set[int]] = {
            (name, tier): set() for name in WORKERS for tier in (Tier.DEVICE, Tier.HOST)
        }
        self.evicted_since: dict[tuple[str, int], int] = {}
        self.archived: set[tuple[str, int]] = set()
        self.requests = 0

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.stop()
            self.directory.cleanup()

    @rule(name=workers, session=sessions, size=st.integers(1, 7), final=st.booleans())
    def talk(self, name: str, session: str, size: int, final: bool) -> None:
        self.hear(session, self.complete(name, session, size, final), final)

    @rule(name=workers, session=sessions, size=st.integers(1, 7), final=st.booleans())
    def talk_in_a_gap_that_is_replayed(
        self, name: str, session: str, size: int, final: bool
    ) -> None:
        lost = self.complete(name, session, size, final)
        self.world.restart()
        self.hear(session, lost, final)

    @rule(name=workers, session=sessions, size=st.integers(1, 7), final=st.booleans())
    def talk_in_a_gap_for_good(self, name: str, session: str, size: int, final: bool) -> None:
        """Of the turn only the blocks are told, until the session's next request shows it."""
        lost = self.complete(name, session, size, final)
        self.put_right(name, lost[-1])

    def complete(self, name: str, session: str, size: int, final: bool) -> list[Frame]:
        self.requests += 1
        talk = self.talks[session]
        talk.said += [("user", f"{self.requests} {'?' * size}"), ("assistant", "!" * size)]
        frames = self.workers[name].complete(
            talk.said, session=session, started_unix_ns=self.requests, final=final
        )
        for frame in frames:
            if isinstance(frame.body, BlockBatch):
                for event in frame.body.events:
                    assert isinstance(event, BlocksStored)
                    self.held[name, Tier.DEVICE] |= set(event.block_hashes)
        return frames

    def hear(self, session: str, frames: list[Frame], final: bool) -> None:
        talk = self.talks[session]
        talk.heard, talk.heard_its_end = list(talk.said), final
        self.world.apply(*frames)

    @rule(
        name=workers, session=sessions, place=places, tier=st.sampled_from([Tier.DEVICE, Tier.HOST])
    )
    def evict(self, name: str, session: str, place: int, tier: Tier) -> None:
        gone = self.some_blocks(session, place)
        if tier is Tier.HOST:  # What is on the device as well stays there.
            gone = array("Q", [each for each in gone if each not in self.held[name, Tier.DEVICE]])
        self.held[name, tier] -= set(gone)
        self.world.apply(self.workers[name].evict(gone, tier))

    @rule(name=workers, session=sessions, place=places)
    def copy_to_the_host(self, name: str, session: str, place: int) -> None:
        copied = self.some_held_blocks(name, session, place)
        self.held[name, Tier.HOST] |= copied
        self.world.apply(self.workers[name].emit(BlockBatch(self.runs_of(copied, Tier.HOST))))

    @rule(name=workers, session=sessions, place=places, is_removed_first=st.booleans())
    def move_to_the_host(self, name: str, session: str, place: int, is_removed_first: bool) -> None:
        """In one frame: whichever comes first, no turn is without its KV at its end."""
        moved = self.some_held_blocks(name, session, place)
        self.held[name, Tier.DEVICE] -= moved
        self.held[name, Tier.HOST] |= moved
        removed = (BlocksRemoved(array("Q", moved), Tier.DEVICE),)
        stored = self.runs_of(moved, Tier.HOST)
        events = removed + stored if is_removed_first else stored + removed
        self.world.apply(self.workers[name].emit(BlockBatch(events)))

    @rule(name=workers, session=sessions, place=places)
    def make_room_and_compute_again(self, name: str, session: str, place: int) -> None:
        """In one frame: what was removed at its beginning is there at its end."""
        again = self.some_held_blocks(name, session, place)
        removed = (BlocksRemoved(array("Q", again), Tier.DEVICE),)
        stored = self.runs_of(again, Tier.DEVICE)
        self.world.apply(self.workers[name].emit(BlockBatch(removed + stored)))

    @rule(name=workers, session=sessions, place=places)
    def compute_again(self, name: str, session: str, place: int) -> None:
        """Blocks come back, and no turn is told with them."""
        back = set(self.some_blocks(session, place))
        self.held[name, Tier.DEVICE] |= back
        self.world.apply(self.workers[name].emit(BlockBatch(self.runs_of(back, Tier.DEVICE))))

    @rule(name=workers)
    def clear(self, name: str) -> None:
        everything = array("Q", self.held[name, Tier.DEVICE] | self.held[name, Tier.HOST])
        self.held[name, Tier.DEVICE], self.held[name, Tier.HOST] = set(), set()
        self.world.apply(self.workers[name].emit(BlockBatch((BlocksCleared(),))))
        self.world.apply(self.workers[name].evict(everything))

    @rule(name=workers)
    def leave_and_come_back(self, name: str) -> None:
        self.world.apply(StreamEnded(StreamId(name)))
        self.held[name, Tier.DEVICE], self.held[name, Tier.HOST] = set(), set()
        self.workers[name] = FakeWorker(name, epoch=self.workers[name].epoch + 1)

    @rule(name=workers, session=sessions, place=places)
    def lose_frames_and_be_put_right(self, name: str, session: str, place: int) -> None:
        gone = self.some_blocks(session, place)
        self.held[name, Tier.DEVICE] -= set(gone)
        self.put_right(name, self.workers[name].evict(gone))

    def put_right(self, name: str, last: Frame) -> None:
        """A snapshot as of a frame that was lost."""
        runs = tuple(
            run
            for tier in (Tier.DEVICE, Tier.HOST)
            for run in self.runs_of(self.held[name, tier], tier)
        )
        at = Position(last.epoch, last.seq)
        self.world.apply(StreamReplaced(StreamId(name), at, runs, "gap"))

    @rule(name=workers)
    def hear_everything_again(self, name: str) -> None:
        before = self.world.count("shepherd_stream_duplicates_total")
        position = self.world.consumer.positions.get(StreamId(name))
        frames = self.workers[name].frames
        if position is not None and position.epoch == self.workers[name].epoch:
            self.world.apply(*frames)
            assert self.world.count("shepherd_stream_duplicates_total") == before + len(frames)

    @rule()
    def be_killed(self) -> None:
        self.world.restart()
        # A reader that goes on hears of every stream that is there.
        self.world.apply(*[worker.emit(BlockBatch(())) for worker in self.workers.values()])

    @rule(ns=st.sampled_from([1, GRACE // 2, GRACE - 1, GRACE]))
    def pass_time(self, ns: int) -> None:
        self.world.now_ns += ns
        self.world.apply()

    @precondition(lambda self: hasattr(self, "world"))
    @rule()
    def be_quiet(self) -> None:
        self.world.now_ns += (LONGEST_BURST + 1) * GRACE
        self.world.apply()
        self.look()
        expected = {turn for turn in self.evicted_since if not self.is_protected(*turn)}

        assert expected <= self.archived, "an evicted turn was forgotten"

    @invariant()
    def look(self) -> None:
        if not hasattr(self, "world"):
            return
        held = set().union(*self.held.values())
        now = self.world.now_ns
        for session, talk in self.talks.items():
            for ordinal, blocks in enumerate(talk.turns(), start=1):
                if blocks and blocks <= held:
                    self.evicted_since.pop((session, ordinal), None)
                else:
                    self.evicted_since.setdefault((session, ordinal), now)
        found = {
            (session, ordinal)
            for session in SESSIONS
            for ordinal, _ in self.world.archived(session)
        }
        assert found >= self.archived, "archived is for good"
        for turn in found - self.archived:
            assert not self.is_protected(*turn), f"{turn} is protected"
            assert now - self.evicted_since[turn] >= GRACE, f"{turn} was archived too early"
        self.archived = found

    @invariant()
    def tell_of_each_turn_once(self) -> None:
        if not hasattr(self, "world"):
            return
        told = [each for notice in self.world.outbox() for each in notice.archive_ids]
        there = [
            turn.archive_id
            for session in SESSIONS
            for turn in self.world.turns(session)
            if turn.state == "archived"
        ]
        assert sorted(told) == sorted(there)

    def is_protected(self, session: str, ordinal: int) -> bool:
        talk = self.talks[session]
        return 2 * ordinal == len(talk.heard) and not talk.heard_its_end

    def runs_of(self, wanted: set[int], tier: Tier) -> tuple[BlocksStored, ...]:
        """Blocks with their tokens and parents, as a worker tells of them."""
        runs = []
        for talk in self.talks.values():
            tokens, hashes = spell(talk.said), FakeWorker().blocks_of(talk.said)
            for place, block_hash in enumerate(hashes):
                if block_hash in wanted:
                    parent = BlockHash(hashes[place - 1]) if place else None
                    own = tokens[BLOCK * place : BLOCK * (place + 1)]
                    runs.append(
                        BlocksStored(array("Q", [block_hash]), parent, own, place, tier=tier)
                    )
        return tuple(runs)

    def some_held_blocks(self, name: str, session: str, place: int) -> set[int]:
        return set(self.some_blocks(session, place)) & self.held[name, Tier.DEVICE]

    def some_blocks(self, session: str, place: int) -> array[int]:
        return FakeWorker().blocks_of(self.talks[session].said)[place : place + 2]


@pytest.fixture
def told(world: World) -> Iterator[EvictionMachine]:
    """A machine that is told a story by hand; it looks after every step all the same."""

    class Machine(EvictionMachine):
        make_world = type(world)

    machine = Machine()
    machine.begin()
    yield machine
    machine.teardown()


def after_each(machine: EvictionMachine, *steps: Callable[[], None]) -> None:
    for step in steps:
        step()
        machine.look()
        machine.tell_of_each_turn_once()


def test_a_grace_is_not_over_a_nanosecond_early(told: EvictionMachine) -> None:
    after_each(
        told,
        lambda: told.talk("w1", "s", 7, final=False),
        lambda: told.talk("w1", "s", 7, final=False),
        lambda: told.evict("w1", "s", 1, Tier.DEVICE),
        lambda: told.pass_time(GRACE - 1),
    )
    assert told.archived == set()

    after_each(told, lambda: told.pass_time(1))
    assert told.archived == {("s", 1)}


@pytest.mark.parametrize("is_removed_first", [False, True])
def test_a_block_that_moves_within_one_frame_was_never_gone(
    told: EvictionMachine, is_removed_first: bool
) -> None:
    after_each(
        told,
        lambda: told.talk("w1", "s", 7, final=False),
        lambda: told.talk("w1", "s", 7, final=False),
        lambda: told.move_to_the_host("w1", "s", 1, is_removed_first),
        told.be_quiet,
    )

    assert told.archived == set()
    assert told.world.consumer.next_due_ns is None
    assert told.world.count("shepherd_memory_turns_in_grace") == 0


def test_a_block_that_moves_holds_up_no_other_turn_of_its_session(told: EvictionMachine) -> None:
    after_each(
        told,
        lambda: told.talk("w1", "s", 7, final=False),
        lambda: told.talk("w1", "s", 7, final=False),
        lambda: told.talk("w1", "s", 7, final=False),
        lambda: told.evict("w1", "s", 1, Tier.DEVICE),
        lambda: told.pass_time(GRACE // 2),
        lambda: told.move_to_the_host("w1", "s", 6, is_removed_first=True),
        lambda: told.pass_time(GRACE // 2),
    )

    assert told.archived == {("s", 1)}


def test_a_block_that_is_computed_again_within_one_frame_was_never_gone(
    told: EvictionMachine,
) -> None:
    after_each(
        told,
        lambda: told.talk("w1", "s", 7, final=False),
        lambda: told.talk("w1", "s", 7, final=False),
        lambda: told.make_room_and_compute_again("w1", "s", 1),
        told.be_quiet,
    )

    assert told.archived == set()


def test_blocks_that_come_back_end_the_grace_and_the_next_one_is_whole(
    told: EvictionMachine,
) -> None:
    after_each(
        told,
        lambda: told.talk("w1", "s", 7, final=False),
        lambda: told.talk("w1", "s", 7, final=False),
        lambda: told.evict("w1", "s", 1, Tier.DEVICE),
        lambda: told.pass_time(GRACE // 2),
        lambda: told.compute_again("w1", "s", 1),
    )
    assert told.world.consumer.next_due_ns is None

    after_each(
        told,
        lambda: told.evict("w1", "s", 1, Tier.DEVICE),
        lambda: told.pass_time(GRACE - 1),
    )
    assert told.archived == set()


def test_the_end_of_a_session_outlives_a_kill(told: EvictionMachine) -> None:
    after_each(
        told,
        lambda: told.talk("w1", "s", 7, final=True),
        told.be_killed,
        lambda: told.evict("w1", "s", 1, Tier.DEVICE),
        told.be_quiet,
    )

    assert told.archived == {("s", 1)}


def test_a_turn_that_was_lost_with_its_frames_is_archived_once_it_is_told_of(
    told: EvictionMachine,
) -> None:
    after_each(
        told,
        lambda: told.talk("w1", "s", 7, final=False),
        lambda: told.talk_in_a_gap_for_good("w1", "s", 7, final=False),
        lambda: told.evict("w1", "s", 7, Tier.DEVICE),
        told.be_quiet,
    )
    assert told.archived == set()

    after_each(told, lambda: told.talk("w2", "s", 7, final=False), lambda: told.clear("w1"))
    assert [turn.ordinal for turn in told.world.turns()] == [1, 2, 3]

    after_each(told, lambda: told.clear("w2"), told.be_quiet)
    assert told.archived == {("s", 1), ("s", 2)}


def test_what_is_archived_is_what_a_slow_list_says(world: World) -> None:
    class Machine(EvictionMachine):
        make_world = type(world)

    run_state_machine_as_test(
        Machine, settings=settings(max_examples=EXAMPLES, stateful_step_count=25, deadline=None)
    )


EXAMPLES = 40
