"""Speed of answering, beside transformers' `generate` and its continuous batching.

Prompts of 256 tokens without a common beginning, 64 new tokens each, 1, 8 and 32
requests submitted at once.

    decode    new tokens per second while every request decodes, from the last
              first token to the first last one; the same for every engine
    ttft      mean time to the first token
    total     new tokens per second from submission to the end
    bound     what reading the weights once per token would allow
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from contextlib import closing
from typing import Any

import torch

from benchmarks import transformers_peers as peers
from benchmarks.figure import Figure, compare
from benchmarks.workload import Timing, ask, random_model, random_prompts, started
from shepherd_worker.engine.protocol import Engine

PROMPT, NEW = 256, 64
CONCURRENT = (1, 8, 32)
OURS, GENERATE, BATCHING = "ours", "transformers generate", "transformers continuous batching"
GOALS = {
    ("decode", 8): {GENERATE: 1.5, BATCHING: 2.0},
    ("decode", 32): {GENERATE: 1.5, BATCHING: 3.0},
    ("ttft", 8): {GENERATE: 1.5, BATCHING: 1.5},
    ("ttft", 32): {GENERATE: 2.0, BATCHING: 2.0},
}

Taken = dict[tuple[str, int], list[Timing]]


def figures(rounds: int) -> list[Figure]:
    """Ours and both peers, round by round."""
    with random_model() as directory:
        taken = asyncio.run(_measure(directory, rounds))
        weight_bytes = sum(p.nbytes for p in peers.load(directory).parameters())
    alone = [timing.decode for timing in taken[OURS, 1]]
    bounds = [_read_bytes_per_s() / weight_bytes for _ in range(rounds)]
    return [
        *(row for concurrent in CONCURRENT for row in _rows(taken, concurrent)),
        compare(
            "decode at 1 to its bound", alone, bounds, peer_name="read bandwidth", unit="tokens/s"
        ),
    ]


async def _measure(directory: str, rounds: int) -> Taken:
    taken: Taken = defaultdict(list)
    model, batching_model = peers.load(directory), peers.load(directory)
    batching = peers.ContinuousBatching(batching_model, num_tokens=3200 * 16, max_batch_size=32)
    with closing(batching):
        async with started(directory, num_kv_blocks=3200) as engine:
            warmup = random_prompts(2, PROMPT, seed=5)
            await asyncio.to_thread(batching.ask, warmup, 4)
            await ask(engine, warmup, 4)
            for round_ in range(rounds):
                await _take(taken, round_, engine, model, batching)
    return taken


async def _take(
    taken: Taken, round_: int, engine: Engine, model: Any, batching: peers.ContinuousBatching
) -> None:
    for n in CONCURRENT:
        prompts = random_prompts(n, PROMPT, seed=1000 * round_ + n)
        taken[GENERATE, n].append(await asyncio.to_thread(peers.generate, model, prompts, NEW))
        taken[BATCHING, n].append(await asyncio.to_thread(batching.ask, prompts, NEW))
        taken[OURS, n].append(await ask(engine, prompts, NEW))


def _rows(taken: Taken, concurrent: int) -> list[Figure]:
    return [
        compare(
            f"{name} at {concurrent}",
            [getattr(timing, name) for timing in taken[OURS, concurrent]],
            [getattr(timing, name) for timing in taken[peer, concurrent]],
            peer_name=peer,
            unit=unit,
            goal=GOALS.get((name, concurrent), {}).get(peer),
            less_is_better=unit == "s",
        )
        for name, unit in (("decode", "tokens/s"), ("ttft", "s"), ("total", "tokens/s"))
        for peer in (GENERATE, BATCHING)
    ]


def _read_bytes_per_s() -> float:
    """How fast all threads together read memory that no cache holds."""
    block = torch.ones(100_000_000)
    began = time.perf_counter()
    block.sum()
    return block.nbytes / (time.perf_counter() - began)
