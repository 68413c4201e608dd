"""What `shepherd top` makes of what processes say, of what they do not say, and of narrow terminals."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import time
from pathlib import Path

import aiohttp
import pytest
from rich.console import Console

from shepherd_cli.kv.terminal import CommandError
from shepherd_cli.supervisor.status import ProcessStatus, StackStatus
from shepherd_cli.top.command import Watcher
from shepherd_cli.top.reading import Reading, Usage
from shepherd_cli.top.rows import Picture, Sight, picture
from shepherd_cli.top.table import tables

WORKER = """\
# HELP dynamo_component_requests_total Not ours.
dynamo_component_requests_total{model="m"} 7
shepherd_worker_requests_running 2.0
shepherd_worker_requests_waiting 1.0
shepherd_worker_generated_tokens_total %d
shepherd_worker_kv_blocks{state="referenced"} 10
shepherd_worker_kv_blocks{state="cached"} 20
shepherd_worker_kv_blocks{state="empty"} 34
shepherd_worker_kv_host_blocks{state="cached"} 0
shepherd_worker_kv_host_blocks{state="empty"} 0
shepherd_worker_prompt_tokens_total{source="computed"} 30
shepherd_worker_prompt_tokens_total{source="device"} 90
shepherd_stream_events_published_total 12
"""
MEMORY = """\
shepherd_memory_turns_archived_total %d
shepherd_memory_notifications_total{outcome="created"} 5
shepherd_memory_notifications_total{outcome="acknowledged"} 3
shepherd_stream_consumer_lag_seconds_sum %f
shepherd_stream_consumer_lag_seconds_count %d
shepherd_stream_reader_gaps_total 2
"""
GATEWAY = """\
shepherd_gateway_requests_total{route="chat",code="200"} %d
shepherd_gateway_requests_total{route="chat",code="502"} %d
shepherd_gateway_requests_in_progress 3
"""


def process(name: str, role: str, state: str = "ready", pid: int | None = 1) -> ProcessStatus:
    return ProcessStatus(name, role, state, pid, 0, None, "http://x", "http://x/metrics")


STATUS = StackStatus(
    1,
    0.0,
    (process("memory", "memory"), process("decode", "worker"), process("gateway", "gateway")),
)


def sight(at_s: float, tokens: int, archived: int, lag: tuple[float, int], ok: int) -> Sight:
    texts = {
        "decode": WORKER % tokens,
        "memory": MEMORY % (archived, *lag),
        "gateway": GATEWAY % (ok, ok // 10),
    }
    usages = {name: Usage(at_s, at_s / 2, 100 << 20, is_frozen=False) for name in texts}
    return Sight({name: Reading.parse(text, at_s) for name, text in texts.items()}, usages)


def two_sights() -> Picture:
    before, now = sight(10.0, 100, 4, (1.0, 10), 50), sight(12.0, 150, 6, (1.5, 20), 150)
    return picture(STATUS, before, now, is_kept=True)


def test_rates_are_of_the_time_between_two_readings() -> None:
    shown = two_sights()
    (worker,) = shown.workers

    assert (worker.running, worker.waiting, worker.tokens_per_s) == (2, 1, 25.0)
    assert worker.blocks == {"device": (30, 64)}
    assert worker.hit_rate == 0.75
    assert shown.memory is not None
    assert (shown.memory.archived, shown.memory.archived_per_s) == (6, 1.0)
    assert shown.memory.lag_s == pytest.approx(0.05)
    assert (shown.memory.notices, shown.memory.unacknowledged) == (5, 2)
    assert shown.memory.backlog is None
    assert shown.gateway is not None
    assert (shown.gateway.requests_per_s, shown.gateway.failed_per_s) == (55.0, 5.0)
    assert [row.cpu for row in shown.processes] == [0.5, 0.5, 0.5]


def test_a_counter_that_begins_anew_is_not_negative() -> None:
    before, now = sight(10.0, 100, 4, (1.0, 10), 50), sight(12.0, 8, 4, (1.0, 10), 50)
    (worker,) = picture(STATUS, before, now, is_kept=True).workers

    assert worker.tokens_per_s == 4.0


def test_what_is_not_known_is_none_and_a_silent_process_is_away() -> None:
    full = sight(12.0, 150, 6, (1.5, 20), 150)
    readings = {name: full.readings[name] for name in ("decode", "gateway")}
    shown = picture(STATUS, Sight(), Sight(readings, full.usages), is_kept=True)

    assert [row.state for row in shown.processes] == ["away", "ready", "ready"]
    assert shown.memory is not None
    assert (shown.memory.gaps, shown.memory.archived_per_s) == (None, None)
    assert shown.workers[0].tokens_per_s is None
    assert [row.cpu for row in shown.processes] == [None, None, None]


def test_without_its_supervisor_everything_is_gone() -> None:
    shown = picture(STATUS, Sight(), Sight(), is_kept=False)

    assert shown.stack == "gone"
    assert {row.state for row in shown.processes} == {"gone"}


@pytest.mark.parametrize("width", [24, 40, 60, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    written = io.StringIO()
    Console(file=written, width=width).print(tables(two_sights(), width=width))
    lines = written.getvalue().splitlines()

    assert max(map(len, lines)) <= width
    assert any("decode" in line and "ready" in line for line in lines)
    assert any("tokens/s" in line for line in lines) == (width >= 32)
    assert any("30/64" in line for line in lines) == (width >= 48)
    assert "…" not in written.getvalue()


def test_the_kernel_says_who_is_frozen_and_how_much_it_takes() -> None:
    child = subprocess.Popen(["sleep", "60"])
    os.kill(child.pid, signal.SIGSTOP)
    deadline = time.monotonic() + 10
    while not (usage := Usage.of(child.pid, 1.0)) or not usage.is_frozen:
        assert time.monotonic() < deadline
    child.kill()
    child.wait()

    assert usage.rss_bytes > 0
    assert Usage.of(child.pid, 2.0) is None
    status = StackStatus(1, 0.0, (process("decode", "worker"),))
    shown = picture(status, Sight(), Sight({}, {"decode": usage}), is_kept=True)
    assert [row.state for row in shown.processes] == ["frozen"]


async def test_where_nothing_was_started_it_says_so(tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as http:
        with pytest.raises(CommandError, match="expected what `shepherd up` writes"):
            await Watcher(tmp_path / "stack.json", http).look()


async def test_a_process_that_does_not_answer_is_away(tmp_path: Path) -> None:
    pid = os.getpid()
    away = ProcessStatus("g", "gateway", "ready", pid, 0, None, "", "http://127.0.0.1:1/metrics")
    StackStatus(pid, 0.0, (away,)).write(tmp_path / "stack.json")
    async with aiohttp.ClientSession() as http:
        shown = await Watcher(tmp_path / "stack.json", http).look()

    assert shown.processes[0].state in {"away", "gone"}
    assert shown.gateway is not None
    assert shown.gateway.requests_per_s is None
