"""What the memory service counts, in a registry of its own.

Base units, no label that grows with sessions, tenants or requests.
"""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from shepherd_memory.subscription_totals import SubscriptionTotals
from shepherd_telemetry.reload_metrics import ReloadMetrics

_COMMIT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LAG_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_ARCHIVE_BUCKETS = (0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 20, 30, 60, 120, 300)
_NOTIFY_BUCKETS = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14_400, 86_400)
"""A session is told when it speaks next."""


class Metrics:
    """Every series of the process; counters may be moved from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reloads = ReloadMetrics(self.registry)
        self.subscriptions = SubscriptionTotals()
        self.registry.register(self.subscriptions)
        self._stream_series()
        self._turn_series()
        self._search_series()
        self._upkeep_series()
        self._door_series()

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)

    def _stream_series(self) -> None:
        self.events_received = self._counter(
            "shepherd_stream_events_received",
            "Frames taken from streams, by kind of body.",
            "type",
            known=("BlockBatch", "TurnCompleted"),
        )
        self.duplicates = self._counter(
            "shepherd_stream_duplicates", "Frames that had been applied before and were dropped."
        )
        self.resets = self._counter(
            "shepherd_stream_resets",
            "Times a stream's state was replaced as a whole, by cause.",
            "reason",
            known=("new_epoch", "ended"),
        )
        self.stream_failures = self._counter(
            "shepherd_stream_failures", "Times reading a stream failed and was begun again."
        )
        self.lag = Histogram(
            "shepherd_stream_consumer_lag_seconds",
            "Time from a frame's publication until its effects were committed.",
            buckets=_LAG_BUCKETS,
            registry=self.registry,
        )
        self.poison = self._counter(
            "shepherd_memory_poison_frames", "Frames that could not be applied and were skipped."
        )
        self.dead_letters = self._counter(
            "shepherd_memory_dead_letters",
            "Completed requests that could not be applied and are kept.",
        )
        self.store_failures = self._counter(
            "shepherd_memory_store_failures",
            "Times a batch could not be committed because a store could not be used.",
        )
        self.store_up = self._gauge(
            "shepherd_memory_store_up",
            "1 while batches can be committed, or the store be reached where another replica commits.",
        )
        self.store_up.set(1)
        self.stored_bytes = Gauge(
            "shepherd_memory_stored_bytes",
            "Size on disk of what all tenants have, and of the index of blocks.",
            ["store"],
            registry=self.registry,
        )
        self.follows_streams = self._gauge(
            "shepherd_memory_follows_streams",
            "1 on the replica that follows the streams, 0 on those that only answer.",
        )
        self.backlog = self._gauge(
            "shepherd_memory_backlog", "Frames received that wait to be applied."
        )
        self.blocks = self._gauge("shepherd_memory_blocks", "Different blocks resident somewhere.")

    def _turn_series(self) -> None:
        self.turns_recorded = self._counter(
            "shepherd_memory_turns_recorded", "Turns written to the archive as live."
        )
        self.turns_erased = self._counter(
            "shepherd_memory_turns_erased_again",
            "Turns that a stream told of after their erasure, refused.",
        )
        self.turns_archived = self._counter(
            "shepherd_memory_turns_archived", "Turns that left the cache and became searchable."
        )
        self.turns_waiting = self._gauge(
            "shepherd_memory_turns_in_grace", "Evicted turns that are not archived yet."
        )
        self.turns_anonymous = self._counter(
            "shepherd_memory_turns_anonymous", "Completed requests without a session, not stored."
        )
        self.turns_withheld = self._counter(
            "shepherd_memory_turns_withheld",
            "Completed requests whose tokens the stream does not show us, not stored.",
        )
        self.turns_incomplete = self._counter(
            "shepherd_memory_turns_incomplete",
            "Completed requests whose sequence could not be rebuilt back to its root.",
        )
        self.notices = self._counter(
            "shepherd_memory_notifications",
            "Notices by what became of them.",
            "outcome",
            known=("created", "acknowledged"),
        )
        self.archive_seconds = Histogram(
            "shepherd_memory_archive_duration_seconds",
            "Time from a turn's eviction until it was archived and committed, its grace included.",
            buckets=_ARCHIVE_BUCKETS,
            registry=self.registry,
        )
        self.notify_seconds = Histogram(
            "shepherd_memory_notify_duration_seconds",
            "Time from a notice's writing until it was acknowledged: its session was told.",
            buckets=_NOTIFY_BUCKETS,
            registry=self.registry,
        )
        self.commit_seconds = Histogram(
            "shepherd_memory_commit_duration_seconds",
            "Time to apply and commit one batch of frames.",
            buckets=_COMMIT_BUCKETS,
            registry=self.registry,
        )

    def _search_series(self) -> None:
        self.searches = self._counter(
            "shepherd_memory_search_requests",
            "Searches by outcome.",
            "outcome",
            known=("ok", "refused", "error"),
        )
        self.search_seconds = Histogram(
            "shepherd_memory_search_duration_seconds",
            "Time to answer a search.",
            buckets=_COMMIT_BUCKETS,
            registry=self.registry,
        )
        self.search_results = Histogram(
            "shepherd_memory_search_results",
            "Hits per search.",
            buckets=(0, 1, 2, 5, 10, 20, 50, 100),
            registry=self.registry,
        )

    def _upkeep_series(self) -> None:
        self.turns_pruned = self._counter(
            "shepherd_memory_turns_pruned", "Archived turns removed to keep within a quota."
        )
        self.recalls_dropped = self._counter(
            "shepherd_memory_recalls_dropped",
            "Recalled turns whose use was not noted, because too many were between two rounds.",
        )
        self.turns_embedded = self._counter(
            "shepherd_memory_turns_embedded", "Archived turns that were given vectors."
        )
        self.model_failures = self._counter(
            "shepherd_memory_model_failures",
            "Times a model could not answer.",
            "model",
            known=("embedder", "reranker"),
        )

    def _door_series(self) -> None:
        self.auth_failures = self._counter(
            "shepherd_memory_auth_failures", "Requests without a valid credential.", "reason"
        )
        self.access_denied = self._counter(
            "shepherd_memory_access_denied", "Requests whose credential lacks something.", "reason"
        )
        self.rate_limited = self._counter(
            "shepherd_memory_rate_limited", "Requests refused because their tenant asks too often."
        )
        self.tool_calls = self._counter(
            "shepherd_memory_tool_calls", "Calls of memory tools.", "tool", "outcome"
        )
        self.deliveries = self._counter(
            "shepherd_memory_deliveries", "Notices handed to a sink.", "sink", "outcome"
        )
        self.background_failures = self._counter(
            "shepherd_memory_background_failures",
            "Times work in the background failed and was begun again.",
            "work",
        )
        self.extractions = self._counter(
            "shepherd_memory_extractions", "Archived turns read for facts.", "outcome"
        )
        self.summaries = self._counter(
            "shepherd_memory_summaries",
            "Stretches of archived turns read to be summarised.",
            "outcome",
        )

    def _counter(self, name: str, text: str, *labels: str, known: Sequence[str] = ()) -> Counter:
        """Series of `known` values of the one label are there from the start, at 0."""
        counter = Counter(name, text, labels, registry=self.registry)
        for value in known:
            counter.labels(value)
        return counter

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self.registry)
