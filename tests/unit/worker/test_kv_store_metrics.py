"""What came of a KV store is told to Prometheus, and a worker without one tells nothing of it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from shepherd_worker.engine.protocol import EngineStats, KvStoreStats
from shepherd_worker.engine_metrics import EngineCollector
from shepherd_worker.telemetry import exposition


def scraped(stats: EngineStats) -> list[str]:
    registry = CollectorRegistry()
    registry.register(EngineCollector(lambda: stats, lambda: None))
    return [line for line in exposition(registry).splitlines() if not line.startswith("#")]


def test_every_count_of_a_store_has_its_metric() -> None:
    counts = KvStoreStats(
        blocks_hit_total=1,
        blocks_missed_total=2,
        loaded_bytes_total=3,
        saved_bytes_total=4,
        saves_dropped_total=5,
        blocks_corrupt_total=6,
        blocks_evicted_total=7,
        loads_late_total=8,
        failures_total=9,
    )
    stats = EngineStats(prompt_tokens_total=30, prompt_tokens_loaded_total=20, kv_store=counts)
    lines = scraped(stats)

    assert [line for line in lines if "kv_store" in line] == [
        "shepherd_worker_kv_store_hits_total 1.0",
        "shepherd_worker_kv_store_misses_total 2.0",
        "shepherd_worker_kv_store_loaded_bytes_total 3.0",
        "shepherd_worker_kv_store_saved_bytes_total 4.0",
        "shepherd_worker_kv_store_dropped_saves_total 5.0",
        "shepherd_worker_kv_store_corrupt_total 6.0",
        "shepherd_worker_kv_store_evicted_total 7.0",
        "shepherd_worker_kv_store_late_total 8.0",
        "shepherd_worker_kv_store_failures_total 9.0",
    ]
    assert 'shepherd_worker_prompt_tokens_total{source="store"} 20.0' in lines
    assert 'shepherd_worker_prompt_tokens_total{source="computed"} 10.0' in lines


def test_a_worker_without_a_store_has_no_such_metrics() -> None:
    assert [line for line in scraped(EngineStats()) if "kv_store" in line] == []
