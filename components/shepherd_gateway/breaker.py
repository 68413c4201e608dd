"""Whether a service that failed lately is asked again, without any clock.

closed      asked; `failures` in a row open it
open        not asked for `pause_s`
half open   one caller is let through; its answer closes or opens it
"""

from __future__ import annotations

FAILURES = 3
PAUSE_S = 5.0


class Breaker:
    """For one service and one thread; times are monotonic seconds."""

    def __init__(self, failures: int = FAILURES, pause_s: float = PAUSE_S) -> None:
        self._limit = failures
        self._pause_s = pause_s
        self._failed = 0
        self._closed_at_s = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the last calls failed; a caller may be on trial."""
        return self._failed >= self._limit

    def allows(self, now_s: float) -> bool:
        """Whether to ask now; in the half open state the first caller alone."""
        if not self.is_open:
            return True
        if now_s < self._closed_at_s:
            return False
        self._closed_at_s = now_s + self._pause_s
        return True

    def succeeded(self) -> None:
        """A call was answered."""
        self._failed = 0

    def failed(self, now_s: float) -> None:
        """A call was not."""
        self._failed += 1
        self._closed_at_s = now_s + self._pause_s
