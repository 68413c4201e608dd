"""Evicted turns that are not archived yet: their KV may be stored again at once.

A cache that is short of room evicts what the next request of the same session
computes again.  A turn is therefore archived only when it has stayed evicted for
the *grace*, and all turns of a session that are evicted in one *burst* are
archived together, so that the session is told once.  A burst ends when none of
its turns was evicted any more for the grace, at the latest after
`LONGEST_BURST` of them.

    begin     the turn is evicted; again has no effect
    end       its KV is back, or it is gone for another reason
    take_due  the turns whose burst has ended and whose own grace is over

Times are monotonic nanoseconds and never read here.  What waits is forgotten by
a crash: whoever reads the turns again begins their grace anew.  Pure.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import NamedTuple

from shepherd_memory.eviction import TurnKey

LONGEST_BURST = 4
"""In graces: evictions that never pause are told in parts of this length."""


class SessionKey(NamedTuple):
    """One session of one tenant."""

    tenant: str
    session: str


@dataclass(slots=True)
class _Burst:
    first_ns: int
    last_ns: int
    since_ns: dict[TurnKey, int] = field(default_factory=dict)


class GracePeriod:
    """Evicted turns by session, and when each may be archived."""

    def __init__(self, grace_ns: int) -> None:
        self._grace_ns = grace_ns
        self._bursts: dict[SessionKey, _Burst] = {}
        self._session_of: dict[TurnKey, SessionKey] = {}
        self._agenda: list[tuple[int, SessionKey]] = []
        """One entry a burst at least, due no later than the burst is; some are stale."""

    def __len__(self) -> int:
        return len(self._session_of)

    def __contains__(self, key: object) -> bool:
        return key in self._session_of

    def begin(self, session: SessionKey, key: TurnKey, now_ns: int) -> None:
        """A turn of a session is evicted; no effect on one that waits already."""
        if key in self._session_of:
            return
        burst = self._bursts.get(session)
        if burst is None:
            burst = self._bursts[session] = _Burst(now_ns, now_ns)
            self._schedule(session, burst)
        burst.last_ns = now_ns
        burst.since_ns[key] = now_ns
        self._session_of[key] = session

    def end(self, key: TurnKey) -> None:
        """A turn is not evicted any more; it may be unknown."""
        session = self._session_of.pop(key, None)
        if session is None:
            return
        burst = self._bursts[session]
        del burst.since_ns[key]
        if not burst.since_ns:
            del self._bursts[session]

    def take_due(self, now_ns: int) -> dict[TurnKey, int]:
        """The turns that have waited long enough, and since when, session by session.

        They wait no more.
        """
        due: dict[TurnKey, int] = {}
        while self._agenda and self._agenda[0][0] <= now_ns:
            _, session = heapq.heappop(self._agenda)
            burst = self._bursts.get(session)
            if burst is None:
                continue
            if self._end_of(burst) <= now_ns:
                due |= self._close(session, burst, now_ns)
            else:
                self._schedule(session, burst)
        return due

    def next_due_ns(self) -> int | None:
        """When to ask again; None while nothing waits.  Never too late, at times too early."""
        return self._agenda[0][0] if self._session_of else None

    def check(self) -> None:
        """Conservation: a turn waits in exactly one burst, and each burst is on the agenda.

        Raises:
            AssertionError: a law is broken.
        """
        waiting = {key: each for each, burst in self._bursts.items() for key in burst.since_ns}
        assert waiting == self._session_of, "bursts and turns differ"
        assert all(burst.since_ns for burst in self._bursts.values()), "a burst of no turn"
        earliest: dict[SessionKey, int] = {}
        for due_ns, session in self._agenda:
            earliest[session] = min(due_ns, earliest.get(session, due_ns))
        for session, burst in self._bursts.items():
            assert earliest[session] <= self._end_of(burst), f"{session} would be late"

    def _close(self, session: SessionKey, burst: _Burst, now_ns: int) -> dict[TurnKey, int]:
        due = {
            key: since for key, since in burst.since_ns.items() if now_ns - since >= self._grace_ns
        }
        for key in due:
            self.end(key)
        if burst.since_ns:
            burst.first_ns = min(burst.since_ns.values())
            self._schedule(session, burst)
        return due

    def _end_of(self, burst: _Burst) -> int:
        quiet = burst.last_ns + self._grace_ns
        return min(quiet, burst.first_ns + LONGEST_BURST * self._grace_ns)

    def _schedule(self, session: SessionKey, burst: _Burst) -> None:
        heapq.heappush(self._agenda, (self._end_of(burst), session))
