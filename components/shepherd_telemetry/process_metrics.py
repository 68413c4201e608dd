"""The series that every process has, whatever it does.

    shepherd_build_info{component,version,commit}   1
    shepherd_ready                                   1 while the process wants work
    shepherd_log_messages_total{level}
    shepherd_event_loop_lag_seconds                  how late the loop woke up
    process_*                                        of prometheus_client

The invariant: the number of series is fixed when a process has started.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from types import TracebackType
from typing import Final, Self

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

DISTRIBUTION: Final = "shepherd-worker"
LEVELS: Final = ("debug", "info", "warning", "error", "critical")
LAG_INTERVAL_S: Final = 0.25
"""How often the event loop's punctuality is measured."""
_LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class ProcessMetrics:
    """Measures one process from `with` to its end; enter it in the event loop."""

    def __init__(
        self,
        registry: CollectorRegistry,
        component: str,
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
        interval_s: float = LAG_INTERVAL_S,
    ) -> None:
        """`component` is the process's name in our own words: worker, memory, gateway."""
        self._monotonic_s = monotonic_s
        self._interval_s = interval_s
        disable_created_metrics()  # type: ignore[no-untyped-call]  # nobody reads those series
        version, commit = build()
        Gauge(
            "shepherd_build_info",
            "1; the labels say what runs.",
            ["component", "version", "commit"],
            registry=registry,
        ).labels(component, version, commit).set(1)
        self.ready = Gauge("shepherd_ready", "1 while the process wants work.", registry=registry)
        self._messages = _MessageCounter(registry)
        self._lag = Histogram(
            "shepherd_event_loop_lag_seconds",
            "How much later than asked for the event loop woke up.",
            buckets=_LAG_BUCKETS,
            registry=registry,
        )
        ProcessCollector(registry=registry)
        self._measuring: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        logging.getLogger().addHandler(self._messages)
        self._measuring = asyncio.create_task(self._measure(), name="event loop lag")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        logging.getLogger().removeHandler(self._messages)
        if self._measuring is not None:
            self._measuring.cancel()
            with suppress(asyncio.CancelledError):
                await self._measuring

    async def _measure(self) -> None:
        while True:
            due = self._monotonic_s() + self._interval_s
            await asyncio.sleep(self._interval_s)
            self._lag.observe(max(0.0, self._monotonic_s() - due))


class _MessageCounter(logging.Handler):
    """Counts records by level; from any thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        counter = Counter(
            "shepherd_log_messages", "Log messages by level.", ["level"], registry=registry
        )
        self._by_level = {level: counter.labels(level) for level in LEVELS}

    def emit(self, record: logging.LogRecord) -> None:
        """Levels in between, as libraries define them, count as the one below."""
        nearest = max(logging.DEBUG, min(logging.CRITICAL, record.levelno // 10 * 10))
        self._by_level[logging.getLevelName(nearest).lower()].inc()


def build() -> tuple[str, str]:
    """Version and commit of what is installed; "unknown" where the installation does not say."""
    try:
        installed = distribution(DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown", "unknown"
    source = json.loads(installed.read_text("direct_url.json") or "{}")
    return installed.version, source.get("vcs_info", {}).get("commit_id", "unknown")
