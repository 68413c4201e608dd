"""Whatever caches, streams, clocks and crashes do: archived is what a slow, obvious list says.

Two workers serve two sessions; blocks are evicted, copied to the host, stored again;
streams end, have gaps and are put right by snapshots; memory is killed.  The oracle
holds sets of blocks and looks through all turns after every step.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shepherd_events.events import BlockBatch, BlocksCleared, BlocksStored, StreamId, Tier
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
    """A conversation as its client knows it."""

    said: list[tuple[str, str]]
    final: bool = False

    def turns(self) -> list[set[int]]:
        """The full blocks of each turn, counted token by token."""
        hashes = FakeWorker().blocks_of(self.said)
        ends, turns = 0, []
        for place in range(0, len(self.said), 2):
            start, ends = ends, ends + len(spell(self.said[place : place + 2]))
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
        self.talks = {name: Talk([]) for name in SESSIONS}
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
        self.requests += 1
        talk = self.talks[session]
        talk.said += [("user", f"{self.requests} {'?' * size}"), ("assistant", "!" * size)]
        talk.final = final
        frames = self.workers[name].complete(
            talk.said, session=session, started_unix_ns=self.requests, final=final
        )
        self.held[name, Tier.DEVICE] |= set(self.workers[name].blocks_of(talk.said))
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
        copied = array(
            "Q",
            [
                each
                for each in self.some_blocks(session, place)
                if each in self.held[name, Tier.DEVICE]
            ],
        )
        self.held[name, Tier.HOST] |= set(copied)
        run = BlocksStored(copied, None, array("I"), 0, tier=Tier.HOST)
        self.world.apply(self.workers[name].emit(BlockBatch((run,))))

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
        lost = self.workers[name].evict(gone)
        runs = tuple(
            BlocksStored(array("Q", [each]), None, array("I"), 0, tier=tier)
            for tier in (Tier.DEVICE, Tier.HOST)
            for each in sorted(self.held[name, tier])
        )
        at = Position(lost.epoch, lost.seq)
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

    @rule(ns=st.sampled_from([1, GRACE // 2, GRACE]))
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
        return 2 * ordinal == len(talk.said) and not talk.final

    def some_blocks(self, session: str, place: int) -> array[int]:
        return FakeWorker().blocks_of(self.talks[session].said)[place : place + 2]


def test_what_is_archived_is_what_a_slow_list_says(world: World) -> None:
    class Machine(EvictionMachine):
        make_world = type(world)

    run_state_machine_as_test(
        Machine, settings=settings(max_examples=EXAMPLES, stateful_step_count=25, deadline=None)
    )


EXAMPLES = 40
