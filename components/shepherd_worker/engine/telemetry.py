"""What only an engine sees of how long things take: histograms, and a span for each transfer.

    queue wait     a sequence was taken in          until a pass computes for it
    cancelling     its caller left                  until it ended and its blocks are free
    transfer       a handoff's KV was asked for     until it is here

Knows neither sequences nor threads: `Waits` measures from one call to another by
whatever stands for what waits.  Nothing is kept of what never ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import Metric

from shepherd_telemetry.spans import NO_SPANS, Kind, Spans, measured
from shepherd_telemetry.trace_context import parse
from shepherd_worker.engine.protocol import Handoff

Key = TypeVar("Key", bound=Hashable)

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Waits(Generic[Key]):
    """Time between `begin` and `end` of the same key; for one thread."""

    def __init__(self, histogram: Histogram, clock: Callable[[], float]) -> None:
        self._histogram = histogram
        self._clock = clock
        self._begun: dict[Key, float] = {}

    def __len__(self) -> int:
        return len(self._begun)

    def begin(self, key: Key) -> None:
        """It waits from now on; no effect on what waits already."""
        self._begun.setdefault(key, self._clock())

    def end(self, key: Key) -> None:
        """It waits no more; no effect on what did not wait."""
        begun = self._begun.pop(key, None)
        if begun is not None:
            self._histogram.observe(self._clock() - begun)

    def drop(self, key: Key) -> None:
        """It will never end; it may be unknown."""
        self._begun.pop(key, None)


@dataclass(slots=True)
class Transfer:
    """What has come so far."""

    size_bytes: int = 0

    def came(self, records: Sequence[memoryview]) -> None:
        """All of it."""
        self.size_bytes = sum(map(len, records))


class EngineTelemetry:
    """Of one engine; see the module's docstring."""

    def __init__(
        self, spans: Spans = NO_SPANS, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock` gives seconds that never go back; it is read from several threads."""
        self.clock = clock
        self._spans = spans
        self._registry = CollectorRegistry()
        self.queue_wait = self._histogram(
            "queue_wait", "Seconds that a sequence waited until a pass computed for it."
        )
        self.cancelling = self._histogram(
            "cancel_latency", "Seconds from a caller's leaving until its blocks were free."
        )
        self._transfer = self._histogram(
            "kv_transfer_duration", "Seconds until a handoff's KV had been fetched."
        )

    @contextmanager
    def transferring(self, handoff: Handoff, num_blocks: int) -> Iterator[Transfer]:
        """KV is fetched in the block, which says with `Transfer.came` that it has come.

        The span hangs below the request here and is linked to the prefill worker's.
        """
        computed = parse(handoff.traceparent)
        transfer = Transfer()
        begun = self.clock()
        with measured(
            self._spans,
            "kv_transfer",
            Kind.CLIENT,
            links=[computed] if computed else [],
            attributes={"shepherd.kv.blocks": num_blocks},
        ) as span:
            yield transfer
            span.set({"shepherd.kv.bytes": transfer.size_bytes})
        if transfer.size_bytes:
            self._transfer.observe(self.clock() - begun)

    def metrics(self) -> Iterable[Metric]:
        """For `Engine.metrics`; from any thread."""
        return self._registry.collect()

    def _histogram(self, name: str, text: str) -> Histogram:
        full = f"shepherd_worker_{name}_seconds"
        return Histogram(full, text, buckets=_SECONDS, registry=self._registry)
