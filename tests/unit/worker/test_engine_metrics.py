"""What a scrape says of the cache's tiers."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge

from shepherd_events.foreign.msgpack_counters import MsgpackCounters
from shepherd_events.publisher import PublisherCounters
from shepherd_events.transports.protocol import Backlog
from shepherd_worker.engine.protocol import EngineStats
from shepherd_worker.engine_metrics import EngineCollector
from shepherd_worker.health import Phase
from shepherd_worker.telemetry import PhaseMetrics


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


def test_what_waits_to_be_published_is_told() -> None:
    registry = CollectorRegistry()
    counters = PublisherCounters(*range(12))
    backlog = Backlog(3, 4096, 1.5)
    registry.register(
        EngineCollector(EngineStats, lambda: counters, backlog=lambda: backlog),
    )
    names = ("frames", "bytes", "oldest_age_seconds")

    told = [registry.get_sample_value(f"shepherd_stream_outbox_{name}") for name in names]

    assert told == [3, 4096, 1.5]


def test_a_worker_is_in_one_phase_and_its_drain_is_timed() -> None:
    registry, now_s = CollectorRegistry(), [50.0]
    ready = Gauge("shepherd_ready", "As every process has it.", registry=registry)
    phases = PhaseMetrics(registry, ready, monotonic_s=lambda: now_s[0])

    def told() -> tuple[list[str], float | None, float | None]:
        current = [
            str(phase)
            for phase in Phase
            if registry.get_sample_value("shepherd_worker_phase", {"phase": phase})
        ]
        drained_s = registry.get_sample_value("shepherd_worker_drain_duration_seconds")
        return current, registry.get_sample_value("shepherd_ready"), drained_s

    assert told() == (["starting"], 0, 0.0)
    phases.become(Phase.READY)
    now_s[0] = 60.0
    assert told() == (["ready"], 1, 0.0)
    phases.become(Phase.DRAINING)
    now_s[0] = 72.5
    assert told() == (["draining"], 0, 12.5)


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
