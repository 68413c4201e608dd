"""Flood at one event a call, CPU on both sides, then calls and latency at 2,000 events/s."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from benchmarks.figure import Figure, compare
from benchmarks.kv.listener import Heard, Listener
from benchmarks.kv.tellers import Call, Teller, dynamo, ours, vllm_form
from benchmarks.kv.workload import Workload, num_blocks, workload

FLOOD, PACED, EVENTS_PER_S = 20_000, 4_000, 2_000
TELLERS: dict[str, Callable[[Workload], AbstractContextManager[Teller]]] = {
    "ours": ours,
    "vLLM's form": vllm_form,
    "Dynamo's ZmqKvEventPublisher": dynamo,
}
FLOOD_GOALS = {"vLLM's form": 5.0, "Dynamo's ZmqKvEventPublisher": 4.0}


@dataclass(frozen=True, slots=True)
class Told:
    """One run of one teller."""

    took_s: tuple[float, ...]
    """Each call, in ascending order."""
    elapsed_s: float
    """From the first call until everything was heard."""
    cpu_s: float
    """Of the publishing process."""
    heard: Heard


def figures(rounds: int) -> list[Figure]:
    """Events per second, microseconds of CPU per stored block, then calls and latency."""
    flood, paced = workload(FLOOD), workload(PACED)
    floods: dict[str, list[Told]] = {name: [] for name in TELLERS}
    walks: dict[str, list[Told]] = {name: [] for name in TELLERS}
    for _ in range(rounds):
        for name in TELLERS:
            floods[name].append(_tell(name, flood, 0.0))
            walks[name].append(_tell(name, paced, 1 / EVENTS_PER_S))
    blocks = num_blocks(flood.ours)
    rates = {name: [FLOOD / run.elapsed_s for run in runs] for name, runs in floods.items()}
    mine = rates["ours"]
    rows = [
        compare("flood", mine, rates[peer], peer_name=peer, unit="events/s", goal=goal)
        for peer, goal in FLOOD_GOALS.items()
    ]
    rows.append(
        compare("flood", mine, [100_000.0], peer_name="the goal", unit="events/s", goal=1.0)
    )
    rows += _less(floods, "publisher CPU", "us/block", lambda run: run.cpu_s / blocks * 1e6, 0.6)
    rows += _less(
        floods, "listener CPU, all ints", "us/block", lambda run: run.heard.cpu_s / blocks * 1e6
    )
    rows += _less(walks, "publish() p99 at 2,000/s", "us", lambda run: _p99(run.took_s) * 1e6, 50.0)
    rows += _less(
        walks, "end to end p50 at 2,000/s", "ms", lambda run: run.heard.percentile(50) * 1e3
    )
    rows += _less(
        walks, "end to end p99 at 2,000/s", "ms", lambda run: run.heard.percentile(99) * 1e3, 2.0
    )
    return rows


def _less(
    runs: dict[str, list[Told]],
    figure: str,
    unit: str,
    of: Callable[[Told], float],
    limit: float | None = None,
) -> list[Figure]:
    """A figure that should be small, beside each peer's and the limit that was set."""
    values = {name: [of(run) for run in each] for name, each in runs.items()}
    mine = values.pop("ours")
    rows = [
        compare(figure, mine, theirs, peer_name=peer, unit=unit, less_is_better=True)
        for peer, theirs in values.items()
    ]
    if limit is not None:
        rows.append(
            compare(
                figure,
                mine,
                [limit],
                peer_name="the goal",
                unit=unit,
                goal=1.0,
                less_is_better=True,
            )
        )
    return rows


def _p99(ascending: tuple[float, ...]) -> float:
    return ascending[len(ascending) * 99 // 100]


def _tell(name: str, work: Workload, pause_s: float) -> Told:
    with TELLERS[name](work) as teller:
        listener = Listener(teller.wire, teller.live, len(work.ours))
        listener.wait_ready(teller.warm_up)
        began, cpu = time.monotonic(), time.process_time()
        took = _call(teller.calls, pause_s)
        heard = listener.wait_heard()
        elapsed_s, cpu_s = heard.ended_at - began, time.process_time() - cpu
    return Told(tuple(sorted(took)), elapsed_s, cpu_s, heard)


def _call(calls: list[Call], pause_s: float) -> list[float]:
    """Make the calls, `pause_s` apart; how long each took."""
    took: list[float] = []
    due = time.monotonic()
    for call in calls:
        if pause_s and (wait := due - time.monotonic()) > 0:
            time.sleep(wait)
        due += pause_s
        at = time.perf_counter()
        call()
        took.append(time.perf_counter() - at)
    return took
