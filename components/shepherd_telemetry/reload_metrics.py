"""Whether files that are read again while a process runs could be used.

    shepherd_config_reloads_total{outcome}
    shepherd_config_last_reload_successful
    shepherd_config_last_reload_success_timestamp_seconds

The start counts as the first success: what cannot be used then ends the process.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge


class ReloadMetrics:
    """Of one process; from any thread."""

    def __init__(
        self, registry: CollectorRegistry, *, unix_s: Callable[[], float] = time.time
    ) -> None:
        self._unix_s = unix_s
        self._reloads = Counter(
            "shepherd_config_reloads",
            "Times that a file with credentials had changed and was read again, by outcome.",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("success", "failure"):
            self._reloads.labels(outcome)
        self._successful = Gauge(
            "shepherd_config_last_reload_successful",
            "0 while what a changed file says cannot be used and what it said before holds.",
            registry=registry,
        )
        self._success_at = Gauge(
            "shepherd_config_last_reload_success_timestamp_seconds",
            "Unix time at which credentials were read and could be used last.",
            registry=registry,
        )
        self._note(success=True)

    def read_again(self, *, success: bool) -> None:
        """A file had changed."""
        self._reloads.labels("success" if success else "failure").inc()
        self._note(success=success)

    def _note(self, *, success: bool) -> None:
        self._successful.set(success)
        if success:
            self._success_at.set(self._unix_s())
