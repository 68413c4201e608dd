"""What a scrape says of the engine and of the stream, read when somebody scrapes.

One row of a table is one metric: its name, its help, and the field it is read from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shepherd_events.foreign.msgpack_counters import MsgpackCounters
from shepherd_events.publisher import PublisherCounters
from shepherd_events.transports.protocol import Backlog
from shepherd_worker.engine.protocol import EngineStats

Rows = tuple[tuple[str, str, str], ...]

_ENGINE_GAUGES: Rows = (
    ("requests_running", "Sequences in the batch.", "num_running"),
    ("requests_waiting", "Sequences that wait for a place.", "num_waiting"),
    ("kv_leases", "Handoffs that wait to be fetched.", "leases"),
    ("embedding_cache_bytes", "Embeddings of images that are kept.", "images.cache_bytes"),
)
_ENGINE_TOTALS: Rows = (
    ("generated_tokens", "Tokens generated.", "generated_tokens_total"),
    ("kv_blocks_stored", "Blocks that became findable.", "blocks_stored_total"),
    ("kv_blocks_evicted", "Blocks forgotten to make room.", "blocks_evicted_total"),
    ("kv_blocks_offloaded", "Blocks moved from device to host.", "blocks_offloaded_total"),
    ("kv_blocks_onboarded", "Blocks that came back on a hit.", "blocks_onboarded_total"),
    ("preemptions", "Sequences put back for want of blocks.", "preemptions_total"),
    ("drafts", "Passes that verified guessed tokens.", "drafts_total"),
    ("drafted_tokens", "Tokens guessed and verified.", "drafted_tokens_total"),
    ("accepted_tokens", "Guesses that became output.", "accepted_tokens_total"),
    ("requests_refused", "Requests that found the queue full.", "requests_refused_total"),
    (
        "logits_processor_failures",
        "Requests whose logits processors raised or took too long.",
        "processor_failures_total",
    ),
    ("kv_transfer_bytes", "KV bytes fetched or handed out.", "transfer_bytes_total"),
    (
        "kv_transfer_failures",
        "Handoffs that could not be fetched and were computed again.",
        "transfer_failures_total",
    ),
    (
        "kv_transfers_broken_off",
        "Handoffs that a decode worker began to fetch and did not get.",
        "transfers_broken_off_total",
    ),
    ("kv_leases_expired", "Handoffs that nobody fetched in time.", "leases_expired_total"),
    ("images_encoded", "Passes of an image through the vision tower.", "images.encoded_total"),
    ("embeddings_found", "Times that an image's embeddings were kept.", "images.found_total"),
)
_STORE_TOTALS: Rows = (
    ("hits", "Prompt blocks that the KV store gave.", "blocks_hit_total"),
    ("misses", "Prompt blocks that no tier and no store gave.", "blocks_missed_total"),
    ("loaded_bytes", "KV bytes read from the store.", "loaded_bytes_total"),
    ("saved_bytes", "KV bytes written to the store.", "saved_bytes_total"),
    ("dropped_saves", "Blocks that were not saved.", "saves_dropped_total"),
    ("corrupt", "Blocks found damaged or foreign.", "blocks_corrupt_total"),
    ("evicted", "Blocks removed from the store to make room.", "blocks_evicted_total"),
    ("late", "Times that a request did not wait for the store.", "loads_late_total"),
    ("failures", "Calls that the store failed.", "failures_total"),
)
STREAM_TOTALS: Rows = (
    ("frames_published", "Numbered frames sent.", "frames"),
    ("events_published", "Block events and turns sent.", "events"),
    ("published_bytes", "Bytes of frames sent.", "bytes_sent"),
    (
        "events_dropped",
        "Events dropped because the queue was full; readers resynchronise.",
        "dropped_events",
    ),
    ("tombstones", "Gaps that the publisher itself declared.", "tombstones"),
    ("publish_failures", "Frames that the transport refused.", "send_failures"),
    ("replays", "Replay pages served.", "replays"),
    ("snapshots", "Snapshots served.", "snapshots"),
    ("requests_refused", "Control requests that were not understood.", "refused_requests"),
    ("readers_refused", "Readers turned away for want of the right key.", "refused_readers"),
)
_BACKLOG: Rows = (
    ("frames", "Frames that wait to be sent or, with a broker, to be acknowledged.", "frames"),
    ("bytes", "Their size; of events that are not encoded yet, an estimate.", "size_bytes"),
    (
        "oldest_age_seconds",
        "Seconds that the first of them has waited; 0 while none does.",
        "oldest_age_s",
    ),
)
_MSGPACK_TOTALS: Rows = (
    ("messages", "Messages sent in vLLM's form.", "messages"),
    ("events", "Block events sent in vLLM's form.", "events"),
    (
        "events_dropped",
        "Events dropped because the queue was full; all that is resident was told anew.",
        "dropped_events",
    ),
    ("events_withheld", "Blocks not told because their salt is not known.", "withheld_events"),
    ("replays", "Replays asked for.", "replays"),
    (
        "replays_unfinished",
        "Replays given up because their reader took nothing.",
        "unfinished_replays",
    ),
    ("send_failures", "Messages that ZeroMQ refused.", "send_failures"),
)


class EngineCollector(Collector):
    """Reads the engine's and the stream's counters at scrape time."""

    def __init__(
        self,
        stats: Callable[[], EngineStats],
        stream: Callable[[], PublisherCounters | None],
        also: Callable[[], MsgpackCounters | None] = lambda: None,
        own: Callable[[], Iterable[Metric]] = tuple,
        backlog: Callable[[], Backlog | None] = lambda: None,
    ) -> None:
        """`own` is what the engine has beside its statistics, `backlog` what the stream has to send."""
        self._stats = stats
        self._stream = stream
        self._also = also
        self._own = own
        self._backlog = backlog

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus_client, from any thread."""
        stats = self._stats()
        for name, text, where in _ENGINE_GAUGES:
            value = attrgetter(where)(stats)
            yield GaugeMetricFamily(f"shepherd_worker_{name}", text, value=value)
        yield from _totals("shepherd_worker", _ENGINE_TOTALS, stats)
        yield from _by_label(stats)
        if stats.kv_store is not None:
            yield from _totals("shepherd_worker_kv_store", _STORE_TOTALS, stats.kv_store)
        stream = self._stream()
        if stream is not None:
            yield from _totals("shepherd_stream", STREAM_TOTALS, stream)
        backlog = self._backlog()
        if backlog is not None:
            for name, text, where in _BACKLOG:
                value = attrgetter(where)(backlog)
                yield GaugeMetricFamily(f"shepherd_stream_outbox_{name}", text, value=value)
        also = self._also()
        if also is not None:
            yield from _totals("shepherd_stream_msgpack", _MSGPACK_TOTALS, also)
        yield from self._own()


def _totals(prefix: str, rows: Rows, source: Any) -> Iterator[Metric]:
    for name, text, where in rows:
        yield CounterMetricFamily(f"{prefix}_{name}", text, value=attrgetter(where)(source))


def _by_label(stats: EngineStats) -> Iterator[Metric]:
    """Where blocks are, where prompt tokens came from, how transfers went."""
    device = {
        "referenced": stats.blocks_referenced,
        "cached": stats.blocks_cached,
        "empty": stats.blocks_empty,
    }
    host = {"cached": stats.host_blocks_cached, "empty": stats.host_blocks_empty}
    yield _labelled(GaugeMetricFamily, "kv_blocks", "Device blocks.", "state", device)
    yield _labelled(GaugeMetricFamily, "kv_host_blocks", "Host blocks.", "state", host)
    yield _labelled(
        CounterMetricFamily,
        "prompt_tokens",
        "Prompt tokens by where their KV came from.",
        "source",
        _prompt_tokens(stats),
    )
    yield _labelled(
        CounterMetricFamily,
        "kv_transfers",
        "Handoffs whose KV was fetched.",
        "transport",
        stats.transfers_total,
    )
    yield _labelled(
        CounterMetricFamily,
        "kv_transfer_faults",
        "Attempts to fetch KV that failed; another transport may have come through.",
        "transport",
        stats.transfer_faults_total,
    )


def _prompt_tokens(stats: EngineStats) -> dict[str, int]:
    found = {
        "device": stats.prompt_tokens_cached_total - stats.prompt_tokens_cached_on_host_total,
        "host": stats.prompt_tokens_cached_on_host_total,
        "remote": stats.prompt_tokens_transferred_total,
        "store": stats.prompt_tokens_loaded_total,
    }
    return {"computed": stats.prompt_tokens_total - sum(found.values()), **found}


def _labelled(
    family: type[GaugeMetricFamily | CounterMetricFamily],
    name: str,
    text: str,
    label: str,
    values: Mapping[str, int],
) -> Metric:
    metric = family(f"shepherd_worker_{name}", text, labels=[label])
    for key, value in values.items():
        metric.add_metric([key], value)
    return metric
