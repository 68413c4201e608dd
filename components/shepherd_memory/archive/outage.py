"""Whether a server is out of reach, as those know who try to reach it; no I/O, no clock.

    in reach       anyone may try; who gets no connection after one could not be made,
                   or hears nothing for too long on one  ──► out of reach
    out of reach   one may try at a time, everybody else is refused at once;
                   who gets a connection  ──► in reach

So a server that is away holds up one caller at a time, however many ask, and
the first who reaches it again opens the way for all.  That all connections are
in use is no outage: callers wait for one another then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shepherd_memory.errors import StoreUnavailableError


class Outage:
    """What is known of one server; any thread."""

    def __init__(self, server: str, tell: Callable[[str], None]) -> None:
        """`tell` hears why the server is out of reach, and an empty string when it no longer is."""
        self._server = server
        self._tell = tell
        self._lock = threading.Lock()
        self._suspicion = ""
        """Why the last connection could not be made; empty as soon as there is one."""
        self._is_tried = False
        self.reason = ""
        """Why the server is out of reach; empty while it is not."""

    def suspect(self, reason: str) -> None:
        """A connection could not be made; others may still be there."""
        self._suspicion = reason

    def begin(self, reason: str) -> None:
        """The server is out of reach."""
        with self._lock:
            self._become(reason)

    @contextmanager
    def trying(self) -> Iterator[None]:
        """Try to get a connection in this block, which succeeds unless it raises.

        Raises:
            StoreUnavailableError: the server is out of reach, and somebody tries already.
        """
        with self._lock:
            is_alone = bool(self.reason)
            if is_alone and self._is_tried:
                raise StoreUnavailableError(self._server, self.reason)
            if is_alone:
                self._is_tried = True
        reason = ""
        try:
            yield
        except BaseException:
            reason = self._suspicion or self.reason
            raise
        finally:
            with self._lock:
                if is_alone:
                    self._is_tried = False
                self._suspicion = reason
                self._become(reason)

    def _become(self, reason: str) -> None:
        """Told once for each way."""
        if bool(reason) != bool(self.reason):
            self._tell(reason)
        self.reason = reason

    def __repr__(self) -> str:
        return f"<Outage of {self._server}: {self.reason or 'none'}>"
