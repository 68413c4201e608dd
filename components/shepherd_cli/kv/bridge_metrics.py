"""What a scrape says of a bridge, read when somebody scrapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shepherd_events.foreign.bridge import Bridge
from shepherd_events.publisher import PublisherCounters
from shepherd_worker.engine_metrics import STREAM_TOTALS

_SOURCE = {
    "messages": "Messages taken over.",
    "duplicates": "Messages that came twice.",
    "gaps": "Times that messages were missing.",
    "gaps_unrecovered": "Times that no replay brought them.",
    "restarts": "Times that the publisher was started anew.",
    "departures": "Times that the publisher was gone.",
    "replays": "Replays asked for.",
    "failed_replays": "Replays that did not come to their end.",
    "undecodable": "Messages that hold no batch.",
    "ranks_refused": "Messages of ranks without a stream.",
}
_BLOCKS = {
    "stored": "Blocks told as stored.",
    "removed": "Blocks told as removed.",
    "clearings": "Times that the publisher cleared its cache.",
    "unknown_parents": "Blocks not told because their chain is not known.",
    "unknown_removals": "Removals of blocks that were not held.",
    "unknown_mediums": "Blocks not told because their tier is not known.",
    "other_attention": "Blocks not told because they do not hold every token.",
    "misfits": "Blocks not told because of their size.",
    "ambiguous": "Blocks not told because their name stands for another.",
    "over_limit": "Blocks not told because there are too many.",
    "unreadable_events": "Events that make no sense.",
    "losses": "Times that all was declared gone because something may have been missed.",
}


class BridgeCollector(Collector):
    """Reads a bridge's counters at scrape time, from any thread."""

    def __init__(
        self, bridge: Bridge, streams: Callable[[], Mapping[int, PublisherCounters]]
    ) -> None:
        self._bridge = bridge
        self._streams = streams

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus_client."""
        yield GaugeMetricFamily(
            "shepherd_bridge_source_connected", "Whether it is.", value=self._bridge.is_connected
        )
        for name, text in _SOURCE.items():
            value = getattr(self._bridge.counts, name)
            yield CounterMetricFamily(f"shepherd_bridge_source_{name}", text, value=value)
        yield CounterMetricFamily(
            "shepherd_bridge_source_foreign_messages",
            "Messages that are not topic, number and payload.",
            value=self._bridge.num_foreign,
        )
        for name, text in _BLOCKS.items():
            blocks = CounterMetricFamily(f"shepherd_bridge_blocks_{name}", text, labels=["rank"])
            for rank, counts in sorted(self._bridge.translations.items()):
                blocks.add_metric([str(rank)], getattr(counts, name))
            yield blocks
        streams = self._streams()
        for name, text, where in STREAM_TOTALS:
            told = CounterMetricFamily(f"shepherd_stream_{name}", text, labels=["rank"])
            for rank, stream in sorted(streams.items()):
                told.add_metric([str(rank)], getattr(stream, where))
            yield told
