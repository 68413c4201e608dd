"""Two prompts that take turns in a device cache that holds one, with and without a host tier.

1,000 tokens each, one new token; timed is every visit after the first, when the
prompt lies on the host or has to be computed again.  Other prompts in each round.
"""

from __future__ import annotations

import asyncio

from benchmarks.figure import Figure, compare
from benchmarks.workload import ask, random_model, random_prompts, started
from shepherd_worker.engine.protocol import Engine

PROMPT, NUM_KV_BLOCKS, HOST_BYTES = 1000, 63, 128 << 20
GOAL = 5.0


def figures(rounds: int) -> list[Figure]:
    """Time to the first token of a prompt that was seen before."""
    with random_model() as directory:
        return asyncio.run(_measure(directory, rounds))


async def _measure(directory: str, rounds: int) -> list[Figure]:
    tiered, bare = [], []
    async with (
        started(directory, num_kv_blocks=NUM_KV_BLOCKS, host_cache_size=HOST_BYTES) as with_host,
        started(directory, num_kv_blocks=NUM_KV_BLOCKS) as without,
    ):
        for engine in (with_host, without):
            await ask(engine, random_prompts(1, 32, seed=5), 1)
        for round_ in range(rounds):
            prompts = random_prompts(2, PROMPT, seed=4_000 + round_)
            bare += await _revisit(without, prompts)
            tiered += await _revisit(with_host, prompts)
    return [
        compare(
            f"{PROMPT:,} tokens back from the host",
            tiered,
            bare,
            peer_name="computed again",
            unit="s",
            goal=GOAL,
            less_is_better=True,
        )
    ]


async def _revisit(engine: Engine, prompts: list[list[int]]) -> list[float]:
    for prompt in prompts:
        await ask(engine, [prompt], 1)
    return [(await ask(engine, [prompt], 1)).ttft for prompt in prompts]
