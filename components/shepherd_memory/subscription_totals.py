"""What all subscriptions had to repair, as Prometheus reads it: those that ended included."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from shepherd_events.subscription_types import SubscriptionCounters

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from shepherd_events.subscriber import Subscription

_SERIES = {
    "gaps": "Times that frames were found missing.",
    "replays": "Pages of a replay that were received.",
    "snapshots": "Times that a stream's blocks were taken from a snapshot.",
    "duplicates": "Frames that came again and were dropped.",
    "decode_errors": "Payloads that were no frame of their stream, or not whole.",
    "corrupt": "Those of them that had another checksum than they should.",
    "digest_checks": "Heartbeats that were compared with what is held.",
    "digest_mismatches": "Those of them that told of other blocks.",
    "failed_requests": "Requests that were not answered, or refused.",
}


class SubscriptionTotals(Collector):
    """Written by the event loop, read by any thread."""

    def __init__(self) -> None:
        self._ended = SubscriptionCounters()
        self._open: tuple[Subscription, ...] = ()

    @contextmanager
    def counting(self, subscription: Subscription) -> Iterator[None]:
        """Count a subscription for as long as it is read, and remember it afterwards."""
        self._open = (*self._open, subscription)
        try:
            yield
        finally:
            self._open = tuple(each for each in self._open if each is not subscription)
            self._ended = _sum(self._ended, subscription.counters)

    @property
    def total(self) -> SubscriptionCounters:
        """Of all subscriptions so far."""
        return _sum(self._ended, *(each.counters for each in self._open))

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus_client."""
        total = self.total
        for name, text in _SERIES.items():
            value = getattr(total, name)
            yield CounterMetricFamily(f"shepherd_stream_reader_{name}", text, value=value)


def _sum(*counters: SubscriptionCounters) -> SubscriptionCounters:
    names = [field.name for field in fields(SubscriptionCounters)]
    return SubscriptionCounters(**{n: sum(getattr(each, n) for each in counters) for n in names})
