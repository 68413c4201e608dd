"""When a reader may ask its publisher again, without waiting or asking itself.

After every failure the wait doubles, up to a limit; chance shortens each by up
to half, so that readers which lost one publisher together do not come back
together.  A publisher that says how long it wants to be left alone is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

from shepherd_events.errors import KvEventsError, RequestFailedError
from shepherd_events.subscription_types import Patience

_MAX_DOUBLINGS = 16


class RetrySchedule:
    """Times on the clock that is given, in seconds."""

    def __init__(self, patience: Patience, clock: Callable[[], float], random: Random) -> None:
        self._patience = patience
        self._clock = clock
        self._random = random
        self._retry_at = -math.inf
        self._snapshot_at = -math.inf
        self.failures = 0
        """Failed requests since the last one that brought us on."""

    def due_at(self, *, for_snapshot: bool) -> float:
        """When the next request may be sent; long ago, if nothing failed."""
        return max(self._retry_at, self._snapshot_at) if for_snapshot else self._retry_at

    def failed(self, error: KvEventsError) -> None:
        """A request was not answered, or not with what it asked for."""
        self.failures += 1
        patience = self._patience
        doublings = min(self.failures - 1, _MAX_DOUBLINGS)
        wait = min(patience.first_retry_s * 2.0**doublings, patience.last_retry_s)
        wait *= self._random.uniform(0.5, 1.0)
        if isinstance(error, RequestFailedError):
            wait = max(wait, error.retry_after_s)
        self._retry_at = self._clock() + wait

    def forget_failures(self) -> None:
        """A request was answered, or another publisher is there: begin anew."""
        self.failures = 0
        self._retry_at = -math.inf

    def snapshot_taken(self) -> None:
        """The next one must wait for a while."""
        self._snapshot_at = self._clock() + self._patience.between_snapshots_s
