"""What every process says of itself."""

from __future__ import annotations

import asyncio
import logging

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from metric_rules import problems, series
from shepherd_telemetry.process_metrics import ProcessMetrics, build
from shepherd_telemetry.reload_metrics import ReloadMetrics


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


async def test_what_runs_is_told_by_labels_and_readiness_by_whoever_knows() -> None:
    registry = CollectorRegistry()
    process = ProcessMetrics(registry, "worker")
    version, commit = build()

    told = value(
        registry, "shepherd_build_info", component="worker", version=version, commit=commit
    )
    assert told == 1
    assert value(registry, "shepherd_ready") == 0
    process.ready.set(1)
    assert value(registry, "shepherd_ready") == 1


async def test_messages_are_counted_by_level_while_the_process_is_measured() -> None:
    registry = CollectorRegistry()
    log = logging.getLogger("a.library")
    log.error("before")
    async with ProcessMetrics(registry, "worker"):
        log.warning("one")
        log.error("two")
        log.log(logging.WARNING + 5, "a level of its own")
        log.log(99, "beyond all")
    log.error("after")

    levels = ("debug", "info", "warning", "error", "critical")
    counts = [value(registry, "shepherd_log_messages_total", level=each) for each in levels]
    assert counts == [0, 0, 2, 1, 1]


async def test_a_loop_that_was_held_up_is_seen_to_be_late() -> None:
    registry = CollectorRegistry()
    times = iter([100.0, 103.25])  # asked for 0.25 s, and woke up three seconds late
    looked = asyncio.Event()

    def clock() -> float:
        later = next(times, None)
        if later is None:
            looked.set()
            return 200.0
        return later

    async with ProcessMetrics(registry, "worker", monotonic_s=clock, interval_s=0.25):
        await asyncio.wait_for(looked.wait(), 5)

    assert value(registry, "shepherd_event_loop_lag_seconds_sum") == 3.0
    assert value(registry, "shepherd_event_loop_lag_seconds_count") == 1


async def test_the_series_are_fixed_from_the_start_and_follow_the_rules() -> None:
    registry = CollectorRegistry()
    async with ProcessMetrics(registry, "worker"):
        before = generate_latest(registry).decode()
        logging.getLogger("b").warning("something")
        after = generate_latest(registry).decode()

    assert series(before) == series(after)
    assert problems(after) == []


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (Gauge("shepherd_wait_ms", "A wait."), "units are seconds"),
        (Gauge("shepherd_made_total", "Made."), "only a counter"),
        (Gauge("shepherd_gauge", "A gauge."), "does not say its type"),
        (Gauge("shepherd_queue_count", "How many."), "only a histogram"),
        (Gauge("shepherd_queue", ""), "its help"),
        (Gauge("shepherd_inUse", "How many."), "snake_case"),
        (Counter("shepherd_asked", "How often.", ["session"]), "grow without end"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_a_name_that_breaks_a_rule_is_found(wrong: Gauge | Counter, why: str) -> None:
    registry = CollectorRegistry()
    registry.register(wrong)
    if isinstance(wrong, Counter):
        wrong.labels("s-1")

    (problem,) = problems(generate_latest(registry).decode())
    assert why in problem


def test_files_that_are_read_again_are_counted_and_the_last_success_is_dated() -> None:
    registry, now_s = CollectorRegistry(), [1000.0]
    reloads = ReloadMetrics(registry, unix_s=lambda: now_s[0])

    def told() -> list[float | None]:
        return [
            value(registry, "shepherd_config_reloads_total", outcome="success"),
            value(registry, "shepherd_config_reloads_total", outcome="failure"),
            value(registry, "shepherd_config_last_reload_successful"),
            value(registry, "shepherd_config_last_reload_success_timestamp_seconds"),
        ]

    assert told() == [0, 0, 1, 1000.0]
    now_s[0] = 2000.0
    reloads.read_again(success=False)
    assert told() == [0, 1, 0, 1000.0]
    reloads.read_again(success=True)
    assert told() == [1, 1, 1, 2000.0]
    assert problems(generate_latest(registry).decode()) == []
