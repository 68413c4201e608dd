"""Which evicted turns may be archived when, against a list that is looked through each time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shepherd_memory.eviction import TurnKey
from shepherd_memory.fake import FakeWorker
from shepherd_memory.grace import LONGEST_BURST, GracePeriod, SessionKey

if TYPE_CHECKING:
    from conftest import World

GRACE = 10
S, OTHER = SessionKey("t", "s"), SessionKey("t", "o")


def key(name: str) -> TurnKey:
    return TurnKey("t", name)


def test_a_turn_is_due_when_its_grace_is_over() -> None:
    grace = GracePeriod(GRACE)
    grace.begin(S, key("a"), 100)

    assert grace.next_due_ns() == 110
    assert grace.take_due(109) == {}
    assert grace.take_due(110) == {key("a"): 100}
    assert grace.next_due_ns() is None
    assert len(grace) == 0


def test_a_turn_whose_blocks_come_back_begins_anew() -> None:
    grace = GracePeriod(GRACE)
    grace.begin(S, key("a"), 100)
    grace.end(key("a"))
    grace.begin(S, key("a"), 105)

    assert grace.take_due(114) == {}
    assert grace.take_due(115) == {key("a"): 105}


def test_a_burst_of_one_session_is_due_together_and_holds_up_no_other() -> None:
    grace = GracePeriod(GRACE)
    grace.begin(S, key("a"), 100)
    grace.begin(OTHER, key("x"), 101)
    grace.begin(S, key("b"), 108)

    assert grace.take_due(111) == {key("x"): 101}
    assert grace.take_due(117) == {}
    assert grace.take_due(118) == {key("a"): 100, key("b"): 108}


def test_evictions_that_never_pause_are_told_in_parts() -> None:
    grace = GracePeriod(GRACE)
    due = []
    for now in range(100, 160, 5):
        grace.begin(S, key(f"{now}"), now)
        due.append((now, [each.archive_id for each in grace.take_due(now)]))

    taken = [(now, names) for now, names in due if names]
    assert taken[0] == (140, ["100", "105", "110", "115", "120", "125", "130"])
    assert LONGEST_BURST == 4


def test_without_grace_a_turn_is_due_at_once() -> None:
    grace = GracePeriod(0)
    grace.begin(S, key("a"), 100)

    assert grace.take_due(100) == {key("a"): 100}


class GraceMachine(RuleBasedStateMachine):
    """Nothing is due before its grace, and nothing waits longer than the longest burst."""

    def __init__(self) -> None:
        super().__init__()
        self.grace = GracePeriod(GRACE)
        self.since: dict[TurnKey, int] = {}
        self.now = 0

    @rule(name=st.sampled_from("abcd"), session=st.sampled_from([S, OTHER]))
    def begin(self, name: str, session: SessionKey) -> None:
        turn = TurnKey("t", f"{session.session}{name}")
        self.grace.begin(session, turn, self.now)
        self.since.setdefault(turn, self.now)

    @rule(name=st.sampled_from("abcd"), session=st.sampled_from("so"))
    def end(self, name: str, session: str) -> None:
        self.grace.end(TurnKey("t", session + name))
        self.since.pop(TurnKey("t", session + name), None)

    @rule(ns=st.integers(0, 15))
    def pass_time(self, ns: int) -> None:
        self.now += ns
        for turn, since in self.grace.take_due(self.now).items():
            assert since == self.since.pop(turn)
            assert self.now - since >= GRACE
        for since in self.since.values():
            assert self.now - since < (LONGEST_BURST + 1) * GRACE

    @rule()
    def be_quiet(self) -> None:
        self.now += GRACE
        assert self.grace.take_due(self.now) == self.since
        self.since.clear()

    @invariant()
    def conserved(self) -> None:
        self.grace.check()
        assert len(self.grace) == len(self.since)
        assert (self.grace.next_due_ns() is None) == (not self.since)


GraceMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestGraceMachine = GraceMachine.TestCase


def test_archiving_is_timed_from_the_eviction_to_the_commit(patient: World) -> None:
    world, worker = patient, FakeWorker()
    said = [("user", "Where do cats sleep?"), ("assistant", "Everywhere.")]
    world.apply(*worker.complete(said, session="s"))
    said += [("user", "And dogs?"), ("assistant", "At the door.")]
    world.apply(*worker.complete(said, session="s"))
    name = "shepherd_memory_archive_duration_seconds"

    world.apply(worker.evict(worker.blocks_of(said)[:2]))
    world.now_ns = 999
    world.apply()
    assert world.count(f"{name}_count") == 0
    world.now_ns = 3_250
    world.apply()

    assert world.count(f"{name}_count") == 1
    assert world.count(f"{name}_sum") == pytest.approx(3_250 / 1e9)
