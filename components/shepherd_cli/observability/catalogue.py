"""Every series that a process of ours can have, read from the code that makes it.

Nothing is started: the collectors are given counters that stand at zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import TypeVar

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

from shepherd_events.foreign.msgpack_counters import MsgpackCounters
from shepherd_events.publisher import PublisherCounters
from shepherd_events.transports.protocol import Backlog
from shepherd_gateway.metrics import Metrics as GatewayMetrics
from shepherd_memory.metrics import Metrics
from shepherd_telemetry.process_metrics import ProcessMetrics
from shepherd_worker.engine.protocol import EngineStats, KvStoreStats
from shepherd_worker.engine.telemetry import EngineTelemetry
from shepherd_worker.engine_metrics import EngineCollector
from shepherd_worker.telemetry import ImageMetrics, PhaseMetrics, RequestMetrics, load_seconds

T = TypeVar("T", PublisherCounters, MsgpackCounters)


@dataclass(frozen=True, slots=True, order=True)
class Series:
    """One name on `/metrics`."""

    name: str
    """As it is queried: a counter with its `_total`, a histogram without its suffixes."""
    kind: str
    labels: tuple[str, ...]
    help: str

    @property
    def unit(self) -> str:
        """The base unit that the name ends in; empty for plain numbers."""
        last = self.name.removesuffix("_total").rsplit("_", maxsplit=1)[-1]
        return last if last in {"seconds", "bytes"} else ""


def worker_registry() -> CollectorRegistry:
    """A worker's, with everything that an option can add."""
    registry = CollectorRegistry()
    PhaseMetrics(registry, ProcessMetrics(registry, "worker").ready)
    load_seconds(registry)
    RequestMetrics(registry)
    ImageMetrics(registry)
    ways = {"shm": 0, "tcp": 0, "nixl": 0}
    stats = EngineStats(transfers_total=ways, transfer_faults_total=ways, kv_store=KvStoreStats())
    stream, also = _at_zero(PublisherCounters), _at_zero(MsgpackCounters)
    own = EngineTelemetry().metrics
    registry.register(EngineCollector(lambda: stats, lambda: stream, lambda: also, own, Backlog))
    return registry


def memory_registry() -> CollectorRegistry:
    """The memory service's."""
    metrics = Metrics()
    ProcessMetrics(metrics.registry, "memory")
    return metrics.registry


def gateway_registry() -> CollectorRegistry:
    """The gateway's."""
    metrics = GatewayMetrics()
    ProcessMetrics(metrics.registry, "gateway")
    return metrics.registry


REGISTRIES: dict[str, Callable[[], CollectorRegistry]] = {
    "worker": worker_registry,
    "memory": memory_registry,
    "gateway": gateway_registry,
}
"""By component."""


def _at_zero(counters: type[T]) -> T:
    return counters(**{each.name: 0 for each in fields(counters)})


def series_of(registry: CollectorRegistry) -> list[Series]:
    """What a registry would show, by name."""
    found: set[Series] = set()
    for collector in list(registry._collector_to_names):  # noqa: SLF001  there is no public way
        found.update(_of_collector(collector))
    return sorted(found)


def _of_collector(collector: Collector) -> Iterator[Series]:
    declared = getattr(collector, "_labelnames", None)
    for metric in collector.collect():
        labels = declared if declared is not None else _labels_of(metric)
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        yield Series(name, metric.type, tuple(labels), metric.documentation)


def _labels_of(metric: Metric) -> tuple[str, ...]:
    return tuple(sorted({label for sample in metric.samples for label in sample.labels}))
