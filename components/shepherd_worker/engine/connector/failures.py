"""Counting what a store cannot do, and saying it once per kind."""

from __future__ import annotations

import errno
import logging
import threading

log = logging.getLogger(__name__)


class Failures:
    """For any thread; a store that fails does so for every block, and one line is enough."""

    def __init__(self, consequence: str) -> None:
        """`consequence` ends the line: what happens instead."""
        self.total = 0
        self._consequence = consequence
        self._kinds: set[str] = set()
        self._lock = threading.Lock()

    def add(self, error: BaseException) -> None:
        """Count a failure; the first one of its kind is logged."""
        number = error.errno if isinstance(error, OSError) else None
        kind = errno.errorcode.get(number or 0, type(error).__name__)
        with self._lock:
            self.total += 1
            known = kind in self._kinds
            self._kinds.add(kind)
        if not known:
            unforeseen = None if isinstance(error, OSError) else error
            log.warning(
                "the KV store failed (%s: %s): %s; further ones are only counted",
                *(kind, error, self._consequence),
                exc_info=unforeseen,
            )
