"""The worker's Prometheus metrics.

Requests are observed as they pass; everything else is read from the engine and
the publisher when somebody scrapes.  Labels never carry a session, tenant or
request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shepherd_events.publisher import PublisherCounters
from shepherd_worker.engine.protocol import EngineStats, KvStoreStats
from shepherd_worker.engine.vision import ImageCounts
from shepherd_worker.errors import DrainDeadlineError, InvalidRequestError, OverloadedError

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class RequestMetrics:
    """How requests went, as the client would see it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "shepherd_worker_requests",
            "Requests by how they ended.",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("ok", "cancelled", "rejected", "migrated", "error"):
            self.requests.labels(outcome)
        self.running = Gauge(
            "shepherd_worker_requests_in_progress",
            "Requests that were admitted and have not ended.",
            registry=registry,
        )
        self.first_token = Histogram(
            "shepherd_worker_time_to_first_token_seconds",
            "Seconds from a request's arrival to its first token.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.next_token = Histogram(
            "shepherd_worker_inter_chunk_seconds",
            "Seconds between the chunks of one request.",
            buckets=_TOKEN_SECONDS,
            registry=registry,
        )
        self.duration = Histogram(
            "shepherd_worker_request_duration_seconds",
            "Seconds from a request's arrival to its end.",
            buckets=_SECONDS,
            registry=registry,
        )

    @contextmanager
    def request(self) -> Iterator[ObservedRequest]:
        """Observe one request from here to the end of the block."""
        observed = ObservedRequest(self)
        outcome = "cancelled"
        with self.running.track_inprogress():
            try:
                yield observed
                outcome = "ok" if observed.complete else "cancelled"
            except (InvalidRequestError, OverloadedError):
                outcome = "rejected"
                raise
            except DrainDeadlineError:
                outcome = "migrated"
                raise
            except Exception:
                outcome = "error"
                raise
            finally:
                self.requests.labels(outcome).inc()
                self.duration.observe(time.monotonic() - observed.started)


class ObservedRequest:
    """The clock of one request."""

    def __init__(self, metrics: RequestMetrics) -> None:
        self._metrics = metrics
        self.started = time.monotonic()
        self._last: float | None = None
        self.complete = False

    def chunk(self, *, last: bool) -> None:
        """A chunk is about to be sent; the request is complete with its last."""
        self.complete = last
        now = time.monotonic()
        if self._last is None:
            self._metrics.first_token.observe(now - self.started)
        else:
            self._metrics.next_token.observe(now - self._last)
        self._last = now


class ImageMetrics:
    """Where the images of requests came from."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.remote = Counter(
            "shepherd_worker_images_remote",
            "Images that an encode worker encoded for this one.",
            registry=registry,
        )
        self.fallbacks = Counter(
            "shepherd_worker_encode_fallbacks",
            "Requests whose images no encode worker encoded, so that this worker did.",
            registry=registry,
        )


class EngineCollector(Collector):
    """Reads the engine's and the stream's counters at scrape time."""

    def __init__(
        self,
        stats: Callable[[], EngineStats],
        stream: Callable[[], PublisherCounters | None],
    ) -> None:
        self._stats = stats
        self._stream = stream

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus_client, from any thread."""
        stats = self._stats()
        yield from _engine_metrics(stats)
        yield from _image_metrics(stats.images)
        if stats.kv_store is not None:
            yield from _kv_store_metrics(stats.kv_store)
        stream = self._stream()
        if stream is not None:
            yield from _stream_metrics(stream)


def _image_metrics(counts: ImageCounts) -> Iterator[Metric]:
    totals = (
        ("images_encoded", "Passes of an image through the vision tower.", counts.encoded_total),
        ("embeddings_found", "Times that an image's embeddings were kept.", counts.found_total),
    )
    for name, text, value in totals:
        yield CounterMetricFamily(f"shepherd_worker_{name}", text, value=value)
    yield GaugeMetricFamily(
        "shepherd_worker_embedding_cache_bytes",
        "Embeddings of images that are kept.",
        value=counts.cache_bytes,
    )


def _stream_metrics(counters: PublisherCounters) -> Iterator[Metric]:
    totals = (
        ("frames_published", "Numbered frames sent.", counters.frames),
        ("events_published", "Block events and turns sent.", counters.events),
        ("published_bytes", "Bytes of frames sent.", counters.bytes_sent),
        (
            "events_dropped",
            "Events dropped because the queue was full; readers resynchronise.",
            counters.dropped_events,
        ),
        ("tombstones", "Gaps that the publisher itself declared.", counters.tombstones),
        ("publish_failures", "Frames that the transport refused.", counters.send_failures),
        ("replays", "Replay pages served.", counters.replays),
        ("snapshots", "Snapshots served.", counters.snapshots),
    )
    for name, text, value in totals:
        yield CounterMetricFamily(f"shepherd_stream_{name}", text, value=value)


def _engine_metrics(stats: EngineStats) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "shepherd_worker_requests_running", "Sequences in the batch.", value=stats.num_running
    )
    yield GaugeMetricFamily(
        "shepherd_worker_requests_waiting",
        "Sequences that wait for a place.",
        value=stats.num_waiting,
    )
    blocks = GaugeMetricFamily("shepherd_worker_kv_blocks", "Device blocks.", labels=["state"])
    host_blocks = GaugeMetricFamily(
        "shepherd_worker_kv_host_blocks", "Host blocks.", labels=["state"]
    )
    host_blocks.add_metric(["cached"], stats.host_blocks_cached)
    host_blocks.add_metric(["empty"], stats.host_blocks_empty)
    yield host_blocks
    blocks.add_metric(["referenced"], stats.blocks_referenced)
    blocks.add_metric(["cached"], stats.blocks_cached)
    blocks.add_metric(["empty"], stats.blocks_empty)
    yield blocks
    prompt = CounterMetricFamily(
        "shepherd_worker_prompt_tokens",
        "Prompt tokens by where their KV came from.",
        labels=["source"],
    )
    computed = (
        stats.prompt_tokens_total
        - stats.prompt_tokens_cached_total
        - stats.prompt_tokens_transferred_total
        - stats.prompt_tokens_loaded_total
    )
    prompt.add_metric(["computed"], computed)
    on_host = stats.prompt_tokens_cached_on_host_total
    prompt.add_metric(["device"], stats.prompt_tokens_cached_total - on_host)
    prompt.add_metric(["host"], on_host)
    prompt.add_metric(["remote"], stats.prompt_tokens_transferred_total)
    prompt.add_metric(["store"], stats.prompt_tokens_loaded_total)
    yield prompt
    yield from _by_transport(
        "kv_transfers", "Handoffs whose KV was fetched.", stats.transfers_total
    )
    yield from _by_transport(
        "kv_transfer_faults",
        "Attempts to fetch KV that failed; another transport may have come through.",
        stats.transfer_faults_total,
    )
    counters = (
        ("generated_tokens", "Tokens generated.", stats.generated_tokens_total),
        ("kv_blocks_stored", "Blocks that became findable.", stats.blocks_stored_total),
        ("kv_blocks_evicted", "Blocks forgotten to make room.", stats.blocks_evicted_total),
        (
            "kv_blocks_offloaded",
            "Blocks that moved from the device to the host.",
            stats.blocks_offloaded_total,
        ),
        (
            "kv_blocks_onboarded",
            "Blocks that came back from the host on a hit.",
            stats.blocks_onboarded_total,
        ),
        ("preemptions", "Sequences put back for want of blocks.", stats.preemptions_total),
        ("drafts", "Passes that verified guessed tokens.", stats.drafts_total),
        ("drafted_tokens", "Tokens guessed and verified.", stats.drafted_tokens_total),
        ("accepted_tokens", "Guesses that became output.", stats.accepted_tokens_total),
        ("requests_refused", "Requests that found the queue full.", stats.requests_refused_total),
        (
            "logits_processor_failures",
            "Requests whose logits processors raised or took too long.",
            stats.processor_failures_total,
        ),
        ("kv_transfer_bytes", "KV bytes fetched or handed out.", stats.transfer_bytes_total),
        (
            "kv_transfer_failures",
            "Handoffs that could not be fetched and were computed again.",
            stats.transfer_failures_total,
        ),
        (
            "kv_transfers_broken_off",
            "Handoffs that a decode worker began to fetch and did not get.",
            stats.transfers_broken_off_total,
        ),
        (
            "kv_leases_expired",
            "Handoffs that nobody fetched in time.",
            stats.leases_expired_total,
        ),
    )
    for name, text, value in counters:
        yield CounterMetricFamily(f"shepherd_worker_{name}", text, value=value)


def _kv_store_metrics(stats: KvStoreStats) -> Iterator[Metric]:
    counters = (
        ("hits", "Prompt blocks that the KV store gave.", stats.blocks_hit_total),
        ("misses", "Prompt blocks that no tier and no store gave.", stats.blocks_missed_total),
        ("loaded_bytes", "KV bytes read from the store.", stats.loaded_bytes_total),
        ("saved_bytes", "KV bytes written to the store.", stats.saved_bytes_total),
        ("dropped_saves", "Blocks that were not saved.", stats.saves_dropped_total),
        ("corrupt", "Blocks found damaged or foreign.", stats.blocks_corrupt_total),
        ("evicted", "Blocks removed from the store to make room.", stats.blocks_evicted_total),
        ("late", "Times that a request did not wait for the store.", stats.loads_late_total),
        ("failures", "Calls that the store failed.", stats.failures_total),
    )
    for name, text, value in counters:
        yield CounterMetricFamily(f"shepherd_worker_kv_store_{name}", text, value=value)


def _by_transport(name: str, text: str, totals: Mapping[str, int]) -> Iterator[Metric]:
    metric = CounterMetricFamily(f"shepherd_worker_{name}", text, labels=["transport"])
    for transport, total in totals.items():
        metric.add_metric([transport], total)
    yield metric


def exposition(registry: CollectorRegistry) -> str:
    """The registry in Prometheus's text format."""
    return generate_latest(registry).decode()
