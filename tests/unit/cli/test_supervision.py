"""What supervision promises, whatever processes do."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shepherd_cli.supervisor.decisions import (
    RUNNING,
    Action,
    Kill,
    Member,
    Outcome,
    Policy,
    Spawn,
    State,
    Supervision,
    Terminate,
)

BROKER, MEMORY, WORKER, GATEWAY = "broker", "memory", "worker", "gateway"
MEMBERS = (
    Member(BROKER, 0, 3),
    Member(MEMORY, 1, 2),
    Member(WORKER, 1, 1),
    Member(GATEWAY, 2, 0),
)
POLICY = Policy(
    max_restarts=3,
    window_s=60.0,
    first_backoff_s=1.0,
    last_backoff_s=3.0,
    start_timeout_s=20.0,
    stop_timeout_s=10.0,
)


def all_ready(supervision: Supervision) -> None:
    supervision.begin(0.0)
    for name in (BROKER, MEMORY, WORKER, GATEWAY):
        supervision.ready(name, 0.0)


def test_a_rank_starts_when_all_of_the_rank_before_it_were_ready() -> None:
    supervision = Supervision(MEMBERS, POLICY)

    assert supervision.begin(0.0) == [Spawn(BROKER)]
    assert supervision.ready(BROKER, 1.0) == [Spawn(MEMORY), Spawn(WORKER)]
    assert supervision.ready(WORKER, 2.0) == []
    assert supervision.ready(MEMORY, 3.0) == [Spawn(GATEWAY)]
    assert not supervision.all_ready
    assert supervision.ready(GATEWAY, 4.0) == []
    assert supervision.all_ready


def test_a_process_that_ends_is_started_again_later_each_time() -> None:
    supervision = Supervision(MEMBERS, POLICY)
    all_ready(supervision)
    now_s, waited = 10.0, []
    for _ in range(3):
        assert supervision.ended(WORKER, 0, now_s) == []
        waited.append(supervision.next_due_s() - now_s)
        now_s = supervision.next_due_s()
        assert supervision.tick(now_s - 0.01) == []
        assert supervision.tick(now_s) == [Spawn(WORKER)]

    assert waited == [1.0, 2.0, 3.0]
    assert supervision.members[WORKER].num_restarts == 3


def test_one_restart_too_many_stops_everything_and_says_whose_fault_it_was() -> None:
    supervision = Supervision(MEMBERS, POLICY)
    all_ready(supervision)
    for _ in range(3):
        supervision.ended(WORKER, 9, 10.0)
        supervision.tick(supervision.next_due_s())

    assert supervision.ended(WORKER, 9, 11.0) == [Terminate(GATEWAY)]
    assert supervision.stopping == Outcome(
        "worker ended with 9, after 3 restarts in 60 s", 1, WORKER
    )


def test_restarts_of_long_ago_do_not_count() -> None:
    supervision = Supervision(MEMBERS, POLICY)
    all_ready(supervision)
    for hour in range(10):
        now_s = 3600.0 * hour
        assert supervision.ended(WORKER, -9, now_s) == []
        assert supervision.next_due_s() == now_s + 1.0
        assert supervision.tick(now_s + 1.0) == [Spawn(WORKER)]
        supervision.ready(WORKER, now_s + 2.0)


@pytest.mark.parametrize(("code", "ours"), [(2, 2), (3, 3), (4, 4), (5, 1), (-11, 1)])
def test_the_exit_code_is_that_of_a_process_that_says_why(code: int, ours: int) -> None:
    supervision = Supervision(MEMBERS, Policy(max_restarts=0))
    supervision.begin(0.0)
    supervision.ended(BROKER, code, 1.0)

    assert supervision.outcome is not None
    assert supervision.outcome.exit_code == ours


def test_a_wrong_option_is_not_tried_again() -> None:
    supervision = Supervision(MEMBERS, POLICY)
    all_ready(supervision)

    assert supervision.ended(MEMORY, 2, 1.0) == [Terminate(GATEWAY)]
    assert supervision.stopping == Outcome("memory ended with 2", 2, MEMORY)


def test_who_is_not_ready_in_time_is_killed_and_tried_again() -> None:
    supervision = Supervision(MEMBERS, POLICY)
    supervision.begin(0.0)

    assert supervision.tick(19.9) == []
    assert supervision.tick(20.0) == [Kill(BROKER)]
    assert supervision.tick(99.0) == []
    assert supervision.ended(BROKER, -9, 99.0) == []
    assert supervision.tick(100.0) == [Spawn(BROKER)]


def test_everything_ends_in_order_each_when_those_before_it_have_ended() -> None:
    supervision = Supervision(MEMBERS, POLICY)
    all_ready(supervision)

    assert supervision.stop("SIGTERM", 1.0) == [Terminate(GATEWAY)]
    assert supervision.ended(GATEWAY, 0, 2.0) == [Terminate(WORKER)]
    assert supervision.ended(WORKER, 0, 3.0) == [Terminate(MEMORY)]
    assert supervision.tick(13.0) == [Kill(MEMORY)]
    assert supervision.ended(MEMORY, -9, 13.1) == [Terminate(BROKER)]
    assert supervision.outcome is None
    assert supervision.ended(BROKER, 0, 14.0) == []
    assert supervision.outcome == Outcome("SIGTERM", 0)


def test_a_second_request_ends_what_is_left_at_once() -> None:
    supervision = Supervision(MEMBERS, POLICY)
    all_ready(supervision)
    supervision.stop("SIGINT", 1.0)

    assert supervision.stop("SIGINT", 2.0) == [Kill(n) for n in (BROKER, MEMORY, WORKER, GATEWAY)]
    assert supervision.stop("SIGINT", 3.0) == []


def test_what_waits_or_backs_off_is_never_started_once_everything_stops() -> None:
    supervision = Supervision(MEMBERS, POLICY)
    supervision.begin(0.0)
    supervision.ended(BROKER, 1, 1.0)

    assert supervision.stop("SIGTERM", 1.5) == []
    assert supervision.outcome == Outcome("SIGTERM", 0)
    assert supervision.tick(1e9) == []
    assert supervision.next_due_s() == math.inf


def test_the_end_of_a_process_that_does_not_run_is_refused() -> None:
    supervision = Supervision(MEMBERS, POLICY)

    with pytest.raises(ValueError, match="gateway ended with 0, but is waiting"):
        supervision.ended(GATEWAY, 0, 0.0)


class AnyLife(RuleBasedStateMachine):
    """Processes that start, end, hang and are asked to end, at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.supervision = Supervision(MEMBERS, POLICY)
        self.running: set[str] = set()
        self.asked: set[str] = set()
        self.killed: set[str] = set()
        self.spawned_s: dict[str, list[float]] = {member.name: [] for member in MEMBERS}
        self.do(self.supervision.begin(0.0))

    def do(self, actions: list[Action]) -> None:
        for action in actions:
            name = action.name
            match action:
                case Spawn():
                    assert name not in self.running
                    assert self.supervision.stopping is None
                    self.running.add(name)
                    self.spawned_s[name].append(self.now_s)
                case Terminate():
                    self.terminate(name)
                case Kill():
                    assert name in self.running
                    assert name not in self.killed
                    self.killed.add(name)

    def terminate(self, name: str) -> None:
        assert name in self.running - self.asked
        rank = self.supervision.members[name].member.stop_rank
        assert all(self.supervision.members[n].member.stop_rank >= rank for n in self.running)
        self.asked.add(name)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), code=st.sampled_from([0, 1, 4, -9]))
    def end(self, data: st.DataObject, code: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.running)))
        for group in (self.running, self.asked, self.killed):
            group.discard(name)
        self.do(self.supervision.ended(name, code, self.now_s))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def become_ready(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.running)))
        self.do(self.supervision.ready(name, self.now_s))

    @rule(seconds=st.floats(0.0, 30.0))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.do(self.supervision.tick(self.now_s))

    @precondition(lambda self: len(self.running) > 2)
    @rule()
    def stop(self) -> None:
        self.do(self.supervision.stop("SIGTERM", self.now_s))

    @invariant()
    def it_knows_what_runs(self) -> None:
        lives = self.supervision.members.values()

        assert {life.member.name for life in lives if life.state in RUNNING} == self.running
        assert (self.supervision.outcome is not None) == (
            self.supervision.stopping is not None and not self.running
        )

    @invariant()
    def nothing_is_started_too_often(self) -> None:
        for starts in self.spawned_s.values():
            for first, later in zip(starts[1:], starts[1 + POLICY.max_restarts :], strict=False):
                assert later - first >= POLICY.window_s

    @invariant()
    def something_is_always_awaited(self) -> None:
        """Nobody can hang for ever: a start, a back-off and an end each have their time."""
        for life in self.supervision.members.values():
            if life.state in {State.STARTING, State.STOPPING, State.BACKING_OFF}:
                assert life.due_s < math.inf or life.member.name in self.killed

    def teardown(self) -> None:
        """Whatever happened, it can be ended."""
        self.do(self.supervision.stop("the end", self.now_s))
        while self.running:
            name = min(self.running, key=lambda n: self.supervision.members[n].member.stop_rank)
            self.running.discard(name)
            self.do(self.supervision.ended(name, 0, self.now_s))

        assert self.supervision.outcome is not None


def test_whatever_happens_nothing_runs_twice_and_everything_can_be_ended() -> None:
    relaxed = settings(
        max_examples=80,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(AnyLife, settings=relaxed)  # type: ignore[no-untyped-call]
