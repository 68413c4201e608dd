"""Prometheus metrics that only TensorRT-LLM has: its own, and how well its events arrive."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, Metric

from shepherd_worker.engine.trtllm.ledger_block import LedgerCounts
from shepherd_worker.engine.trtllm.poller import Poller

_NOT_OF_THE_ENGINE = ("python_", "process_")


def own_metrics(counts: LedgerCounts, poller: Poller) -> list[Metric]:
    """Everything, as of now."""
    return [*_adapter_metrics(counts, poller), *_native_metrics()]


def _adapter_metrics(counts: LedgerCounts, poller: Poller) -> Iterator[Metric]:
    totals = (
        ("events_lost", "Cache events that TensorRT-LLM discarded unread.", counts.lost_events),
        ("event_losses", "Times that all blocks had to be taken back.", counts.losses),
        ("events_unreadable", "Cache events of an unknown form.", poller.reader.num_unknown),
        ("blocks_unmapped", "Stored blocks that readers cannot be told of.", counts.unmapped),
        ("ends_late", "Sequences that ended before their blocks were told.", counts.late),
    )
    for name, text, value in totals:
        yield CounterMetricFamily(f"shepherd_trtllm_{name}", text, value=value)


def _native_metrics() -> Iterator[Metric]:
    """TensorRT-LLM keeps its metrics in the default registry, beside those of the interpreter."""
    for metric in REGISTRY.collect():
        if not metric.name.startswith(_NOT_OF_THE_ENGINE):
            yield metric
