"""What a scrape says of the cache's tiers."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from shepherd_events.foreign.msgpack_counters import MsgpackCounters
from shepherd_worker.engine.protocol import EngineStats
from shepherd_worker.engine_metrics import EngineCollector


def scraped(stats: EngineStats) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(EngineCollector(lambda: stats, lambda: None))
    return registry


def test_prompt_tokens_are_told_by_the_tier_that_had_them() -> None:
    registry = scraped(
        EngineStats(
            prompt_tokens_total=100,
            prompt_tokens_cached_total=60,
            prompt_tokens_cached_on_host_total=25,
        )
    )

    def tokens(source: str) -> float | None:
        return registry.get_sample_value("shepherd_worker_prompt_tokens_total", {"source": source})

    assert (tokens("device"), tokens("host"), tokens("computed")) == (35, 25, 40)


def test_the_host_tier_s_blocks_and_moves_are_told() -> None:
    registry = scraped(
        EngineStats(
            host_blocks_cached=5,
            host_blocks_empty=3,
            blocks_offloaded_total=9,
            blocks_onboarded_total=4,
        )
    )
    blocks = [
        registry.get_sample_value("shepherd_worker_kv_host_blocks", {"state": state})
        for state in ("cached", "empty")
    ]

    assert blocks == [5, 3]
    assert registry.get_sample_value("shepherd_worker_kv_blocks_offloaded_total") == 9
    assert registry.get_sample_value("shepherd_worker_kv_blocks_onboarded_total") == 4


def test_transfers_are_told_by_the_way_they_went() -> None:
    registry = scraped(
        EngineStats(
            transfers_total={"shm": 3, "tcp": 1},
            transfer_faults_total={"shm": 2, "tcp": 0},
            transfers_broken_off_total=4,
            transfer_failures_total=5,
        )
    )

    def total(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"shepherd_worker_kv_{name}_total", labels)

    assert [total("transfers", transport=way) for way in ("shm", "tcp")] == [3, 1]
    assert [total("transfer_faults", transport=way) for way in ("shm", "tcp")] == [2, 0]
    assert total("transfers_broken_off") == 4
    assert total("transfer_failures") == 5


def test_what_the_form_of_vllm_carried_is_told() -> None:
    registry = CollectorRegistry()
    counters = MsgpackCounters(7, 9, 2, 1, 4, 3, 5)
    registry.register(EngineCollector(EngineStats, lambda: None, lambda: counters))
    names = (
        *("messages", "events", "events_dropped", "events_withheld"),
        *("replays", "replays_unfinished", "send_failures"),
    )

    told = [registry.get_sample_value(f"shepherd_stream_msgpack_{name}_total") for name in names]

    assert told == [7, 9, 2, 1, 4, 3, 5]
