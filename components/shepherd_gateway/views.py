"""What the memory said last of each session; in this process, for one thread.

Bounded: of sessions with archived turns the latest `max_full` are kept, of those
without, which weigh next to nothing, `max_empty`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from shepherd_gateway.archived import SessionNotice, SessionView

MAX_FULL = 1000
MAX_EMPTY = 100_000

_BySession = OrderedDict[tuple[str, str], SessionView]


class Views:
    """The one unused for longest goes first."""

    def __init__(self, max_full: int = MAX_FULL, max_empty: int = MAX_EMPTY) -> None:
        self._full: _BySession = OrderedDict()
        self._empty: _BySession = OrderedDict()
        self._kept = ((self._full, max_full), (self._empty, max_empty))

    def __len__(self) -> int:
        return len(self._full) + len(self._empty)

    def of(self, tenant: str, session: str) -> SessionView | None:
        """What was kept last; None where nothing was, or it has gone."""
        name = tenant, session
        return self._full.get(name) or self._empty.get(name)

    def keep(self, tenant: str, session: str, view: SessionView) -> None:
        """What the memory says now."""
        name = tenant, session
        self._full.pop(name, None)
        self._empty.pop(name, None)
        (self._full if view.notices else self._empty)[name] = view
        for views, limit in self._kept:
            if len(views) > limit:
                views.popitem(last=False)


def told_of(notices: Iterable[SessionNotice]) -> list[str]:
    """What distinguishes a view from another one of the same session."""
    return [each.notice_id for each in notices]
