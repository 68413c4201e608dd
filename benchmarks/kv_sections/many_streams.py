"""64 workers with 8 ranks each into one process that holds what all of them hold."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks.figure import Figure, compare
from benchmarks.kv.many_publishers import EPOCH, RUN_BLOCKS, streams
from benchmarks.kv.workload import BLOCK_SIZE
from shepherd_events.events import BlockBatch, Frame, StreamAddress
from shepherd_events.resident_set import ResidentSet
from shepherd_events.subscriber import StreamState, Subscription, subscribe

WORKERS, RANKS, EVENTS_PER_STREAM = 64, 8, 256
EVENTS = WORKERS * RANKS * EVENTS_PER_STREAM
LOWER_BOUND_BYTES = 8.0 + 4 * BLOCK_SIZE
"""A hash and the tokens."""


def figures(rounds: int) -> list[Figure]:
    """Events per second, and bytes per resident block; a process of its own has its own memory."""
    rates, sizes = list[float](), list[float]()
    for _ in range(rounds):
        out = subprocess.run(
            [sys.executable, "-m", "benchmarks.kv_sections.many_streams"],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout.split()
        rates.append(float(out[0]))
        sizes.append(float(out[1]))
    return [
        compare(
            f"{WORKERS * RANKS} streams, one reader",
            rates,
            [EVENTS / 10],
            peer_name="all in 10 s",
            unit="events/s",
        ),
        compare(
            "memory of a resident block",
            sizes,
            [LOWER_BOUND_BYTES],
            peer_name="hash and tokens",
            unit="bytes",
            less_is_better=True,
        ),
    ]


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def _read(subscription: Subscription, num_events: int) -> None:
    async for item in subscription:
        if isinstance(item, Frame) and isinstance(item.body, BlockBatch):
            num_events -= len(item.body.events)
            if num_events == 0:
                return


async def _wait_live(subscription: Subscription) -> None:
    while subscription.state is not StreamState.LIVE:
        await anext(subscription)


async def _measure() -> tuple[float, float]:
    """Events per second and bytes per block, of a million blocks."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    command = [sys.executable, "-m", "benchmarks.kv.many_publishers"]
    command += [str(WORKERS), str(RANKS), str(EVENTS_PER_STREAM)]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    live, control = (await process.stdout.readline()).decode().split()
    async with AsyncExitStack() as stack:
        sets = [ResidentSet() for _ in range(WORKERS * RANKS)]
        subscriptions = [
            await stack.enter_async_context(
                subscribe(StreamAddress(stream, EPOCH, "zmq", live, control), residents=residents)
            )
            for stream, residents in zip(streams(WORKERS, RANKS), sets, strict=True)
        ]
        for subscription in subscriptions:
            await _wait_live(subscription)
        before, began = _resident_bytes(), time.monotonic()
        process.stdin.write(b"\n")
        async with asyncio.TaskGroup() as tasks:
            for subscription in subscriptions:
                tasks.create_task(_read(subscription, EVENTS_PER_STREAM))
        took_s, grown = time.monotonic() - began, _resident_bytes() - before
        assert sum(map(len, sets)) == EVENTS * RUN_BLOCKS
    process.stdin.close()
    await process.wait()
    return EVENTS / took_s, grown / (EVENTS * RUN_BLOCKS)


if __name__ == "__main__":
    print(*asyncio.run(_measure()))
