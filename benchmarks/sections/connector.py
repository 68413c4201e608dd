"""A restarted engine with a directory of KV blocks beside one without, and the directory itself.

A prompt of 1,000 tokens is asked of an engine that has just started: with a store
in which another one left the prompt's blocks, and without.  Then the price: the
same first prompt while its blocks are saved.  The directory reads and writes
records of one block each, from and to the system's page cache, checksums
included; its peer copies the same records in memory.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.figure import Figure, compare
from benchmarks.workload import ask, random_model, random_prompts, started
from shepherd_events.events import BlockHash
from shepherd_worker.engine.connector.disk import DiskStore

PROMPT, BLOCKS = 1000, 400
GOAL = 5.0
NUM_RECORDS, RECORD_BYTES = 256, 393_216
"""Of 16 tokens of the random model."""


def figures(rounds: int) -> list[Figure]:
    """Time to the first token, then bytes per second."""
    with random_model() as model, tempfile.TemporaryDirectory(prefix="shepherd-kv-") as kv:
        rows = asyncio.run(_measure_engine(model, f"disk:{kv}/engine", rounds))
        return rows + _measure_directory(Path(kv), rounds)


async def _measure_engine(model: str, store: str, rounds: int) -> list[Figure]:
    restarted: list[float] = []
    saving: list[float] = []
    without: list[float] = []
    for round_ in range(rounds):
        prompts = random_prompts(1, PROMPT, seed=11_000 + round_)
        without.append(await _first_token(model, "", prompts))
        saving.append(await _first_token(model, store, prompts))
        restarted.append(await _first_token(model, store, prompts))
    rows = {f"first token of {PROMPT:,} after restart": restarted, "the same while saving": saving}
    return [
        compare(
            name,
            ours,
            without,
            peer_name="no store",
            unit="s",
            goal=GOAL if ours is restarted else None,
            less_is_better=True,
        )
        for name, ours in rows.items()
    ]


async def _first_token(model: str, store: str, prompts: list[list[int]]) -> float:
    async with started(model, num_kv_blocks=BLOCKS, kv_connector=store) as engine:
        await ask(engine, random_prompts(1, 8, seed=1), 2)
        timing = await ask(engine, prompts, 1)
        await engine.drain()
        return timing.ttft


def _measure_directory(kv: Path, rounds: int) -> list[Figure]:
    records = [secrets.token_bytes(RECORD_BYTES) for _ in range(NUM_RECORDS)]
    written: list[float] = []
    read: list[float] = []
    copied: list[float] = []
    for round_ in range(rounds):
        store = DiskStore(str(kv / f"round-{round_}"), 1 << 30)
        store.open(bytes(32), RECORD_BYTES)
        hashes = [BlockHash(number) for number in range(1, NUM_RECORDS + 1)]
        copied.append(_rate(lambda: [bytearray(record) for record in records]))
        written.append(_rate(lambda: list(map(store.save, hashes, records))))  # noqa: B023 - called at once
        read.append(_rate(lambda: store.load(hashes)))  # noqa: B023 - as above
        assert store.load(hashes[:2]) == records[:2]
    return [
        compare(name, ours, copied, peer_name="memory copy", unit="GB/s")
        for name, ours in (("directory, write", written), ("directory, read", read))
    ]


def _rate(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return NUM_RECORDS * RECORD_BYTES / 1e9 / (time.perf_counter() - began)
