"""Which process is started, restarted and ended when; knows no process, clock or log.

    state         what happens                          becomes        action
    -----------   -----------------------------------   ------------   ----------------------
    WAITING       all of lower start ranks were ready   STARTING       Spawn
    STARTING      it is ready                           READY
    STARTING      `start_timeout_s` is over             STARTING       Kill; its end follows
    STARTING,     it ends, restarts are left            BACKING_OFF
      READY       it ends otherwise                     STOPPED        everything is stopped
    BACKING_OFF   the back-off is over                  STARTING       Spawn
    STARTING,     all of lower stop ranks have ended,   STOPPING       Terminate
      READY         while everything is stopped
    STOPPING      `stop_timeout_s` is over, or hurried  STOPPING       Kill; its end follows
    STOPPING      it ends                               STOPPED

Start and stop ranks count up from 0.  The invariant: a process is spawned only while
it is not running, and never again once everything is stopped.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

WRONG_OPTION: Final = 2
"""The exit code of a process that starting again does not cure."""
_TOLD_ON: Final = frozenset({WRONG_OPTION, 3, 4})
"""Exit codes of a process that say why; ours then is the same."""

_MAX_DOUBLINGS: Final = 30


@dataclass(frozen=True, slots=True)
class Member:
    """One process, and its place in the two orders."""

    name: str
    start_rank: int
    stop_rank: int


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient supervision is; all times in seconds."""

    max_restarts: int = 5
    """Of one process within `window_s`; one more end stops everything."""
    window_s: float = 300.0
    first_backoff_s: float = 0.5
    """Before the first restart of a window; each further one waits twice as long."""
    last_backoff_s: float = 15.0
    start_timeout_s: float = 120.0
    stop_timeout_s: float = 75.0
    """A worker takes 5 s to be no longer found, 30 to drain and as long to clean up at most."""


class State(Enum):
    """Where a process is in its life."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    BACKING_OFF = "backing off"
    STOPPING = "stopping"
    STOPPED = "stopped"


RUNNING: Final = frozenset({State.STARTING, State.READY, State.STOPPING})
"""States in which there is a process."""


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start the process."""

    name: str


@dataclass(frozen=True, slots=True)
class Terminate:
    """Ask it to end."""

    name: str


@dataclass(frozen=True, slots=True)
class Kill:
    """End it, whatever it does."""

    name: str


Action = Spawn | Terminate | Kill


@dataclass(frozen=True, slots=True)
class Outcome:
    """Why everything stopped."""

    reason: str
    exit_code: int
    culprit: str | None = None
    """The process that could not be kept running."""


@dataclass(slots=True)
class Supervised:
    """A member's life so far; read only, outside this module."""

    member: Member
    state: State = State.WAITING
    num_restarts: int = 0
    last_exit_code: int | None = None
    was_ready: bool = False
    is_killed: bool = False
    """Its end was insisted on already."""
    due_s: float = math.inf
    """When the state lasts too long, or the back-off is over."""
    restarted_s: deque[float] = field(default_factory=deque)
    """When it was restarted within the window."""


class Supervision:
    """All members' lives."""

    def __init__(self, members: Iterable[Member], policy: Policy) -> None:
        self.members = {member.name: Supervised(member) for member in members}
        self.stopping: Outcome | None = None
        """Why everything is being stopped; None while it shall run."""
        self._policy = policy

    @property
    def outcome(self) -> Outcome | None:
        """Set once everything was stopped and nothing runs."""
        return None if any(self._running()) else self.stopping

    @property
    def all_ready(self) -> bool:
        """Whether every process is."""
        return all(each.state is State.READY for each in self.members.values())

    def next_due_s(self) -> float:
        """When `tick` has something to do at the latest; infinite where nothing is awaited."""
        return min((each.due_s for each in self.members.values()), default=math.inf)

    def begin(self, now_s: float) -> list[Action]:
        """Start the first rank."""
        return self._go_on(now_s)

    def ready(self, name: str, now_s: float) -> list[Action]:
        """A process that starts can be used."""
        each = self.members[name]
        if each.state is State.STARTING:
            each.state, each.was_ready, each.due_s = State.READY, True, math.inf
        return self._go_on(now_s)

    def ended(self, name: str, exit_code: int, now_s: float) -> list[Action]:
        """A process is no more; negative codes are signals."""
        each = self.members[name]
        if each.state not in RUNNING:
            raise ValueError(f"{name} ended with {exit_code}, but is {each.state.value}")
        each.last_exit_code, each.due_s = exit_code, math.inf
        if self.stopping is not None:
            each.state = State.STOPPED
            return self._go_on(now_s)
        self._forget_old_restarts(each, now_s)
        if exit_code == WRONG_OPTION or len(each.restarted_s) >= self._policy.max_restarts:
            each.state = State.STOPPED
            return self._stop(self._gave_up(each), now_s)
        each.state, each.due_s = State.BACKING_OFF, now_s + self._backoff_s(each)
        return []

    def tick(self, now_s: float) -> list[Action]:
        """Time has passed."""
        actions: list[Action] = []
        for each in self.members.values():
            if each.due_s > now_s:
                continue
            each.due_s = math.inf
            if each.state is State.BACKING_OFF:
                each.num_restarts += 1
                each.restarted_s.append(now_s)
                actions.append(self._spawn(each, now_s))
            else:
                actions.extend(self._kill(each))
        return actions

    def stop(self, reason: str, now_s: float) -> list[Action]:
        """End everything in order; asked a second time, at once."""
        if self.stopping is None:
            return self._stop(Outcome(reason, 0), now_s)
        return [kill for each in self._running() for kill in self._kill(each)]

    # ---- Transitions

    def _go_on(self, now_s: float) -> list[Action]:
        return self._start_next(now_s) if self.stopping is None else self._stop_next(now_s)

    def _start_next(self, now_s: float) -> list[Action]:
        """Spawn what waits, up to the lowest rank that was not ready yet."""
        rank = min(
            (e.member.start_rank for e in self.members.values() if not e.was_ready), default=-1
        )
        return [
            self._spawn(each, now_s)
            for each in self.members.values()
            if each.state is State.WAITING and each.member.start_rank == rank
        ]

    def _stop(self, why: Outcome, now_s: float) -> list[Action]:
        self.stopping = why
        for each in self.members.values():
            if each.state not in RUNNING:
                each.state, each.due_s = State.STOPPED, math.inf
        return self._stop_next(now_s)

    def _stop_next(self, now_s: float) -> list[Action]:
        """Terminate the lowest rank that still runs."""
        rank = min((each.member.stop_rank for each in self._running()), default=-1)
        actions: list[Action] = []
        for each in self._running():
            if each.member.stop_rank == rank and each.state is not State.STOPPING:
                each.state, each.due_s = State.STOPPING, now_s + self._policy.stop_timeout_s
                actions.append(Terminate(each.member.name))
        return actions

    def _spawn(self, each: Supervised, now_s: float) -> Spawn:
        each.state, each.is_killed = State.STARTING, False
        each.due_s = now_s + self._policy.start_timeout_s
        return Spawn(each.member.name)

    def _kill(self, each: Supervised) -> list[Action]:
        if each.is_killed:
            return []
        each.is_killed, each.due_s = True, math.inf
        return [Kill(each.member.name)]

    def _running(self) -> Iterator[Supervised]:
        return (each for each in self.members.values() if each.state in RUNNING)

    # ---- Restarts

    def _forget_old_restarts(self, each: Supervised, now_s: float) -> None:
        while each.restarted_s and each.restarted_s[0] <= now_s - self._policy.window_s:
            each.restarted_s.popleft()

    def _backoff_s(self, each: Supervised) -> float:
        doublings = min(len(each.restarted_s), _MAX_DOUBLINGS)
        return min(self._policy.first_backoff_s * 2.0**doublings, self._policy.last_backoff_s)

    def _gave_up(self, each: Supervised) -> Outcome:
        name, code = each.member.name, each.last_exit_code
        reason = f"{name} ended with {code}"
        if code != WRONG_OPTION:
            reason += f", after {len(each.restarted_s)} restarts in {self._policy.window_s:g} s"
        return Outcome(reason, code if code in _TOLD_ON and code is not None else 1, name)
