"""In which turn each NOTICE stood, for the sessions of late; in memory, for one thread.

A branch of a conversation has turns of its own, so a notice may have stood in
several.  What was forgotten is derived from time again (`context.py`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

MAX_SESSIONS = 10_000
MAX_BRANCHES = 8
"""Turns remembered of one notice; the oldest go first."""

_BySession = dict[str, tuple[str, ...]]


class Anchors:
    """The keys of turns by tenant, session and notice."""

    def __init__(self, max_sessions: int = MAX_SESSIONS) -> None:
        self._max_sessions = max_sessions
        self._sessions: OrderedDict[tuple[str, str], _BySession] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def of(self, tenant: str, session: str) -> Mapping[str, tuple[str, ...]]:
        """What is remembered of a session, by notice id."""
        return self._sessions.get((tenant, session), {})

    def remember(self, tenant: str, session: str, anchors: Mapping[str, str]) -> None:
        """Notices stand in these turns now; those that are not named any more are forgotten."""
        if not anchors:
            return
        known = self._sessions.get((tenant, session), {})
        self._sessions[tenant, session] = {
            notice: _with(known.get(notice, ()), key) for notice, key in anchors.items()
        }
        self._sessions.move_to_end((tenant, session))
        if len(self._sessions) > self._max_sessions:
            self._sessions.popitem(last=False)


def _with(keys: tuple[str, ...], key: str) -> tuple[str, ...]:
    return keys if key in keys else (*keys, key)[-MAX_BRANCHES:]
