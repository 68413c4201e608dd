"""32 prompts with a common beginning of 1,000 tokens, beside as long ones without.

Both by the same engine, 32 tokens of their own and 8 new ones each; the common
beginning is another one in each round.
"""

from __future__ import annotations

import asyncio

from benchmarks.figure import Figure, compare
from benchmarks.workload import ask, random_model, random_prompts, started

CONCURRENT, SHARED, OWN, NEW = 32, 1000, 32, 8
GOAL = 4.0


def figures(rounds: int) -> list[Figure]:
    """Time from submission to the last token."""
    with random_model() as directory:
        return asyncio.run(_measure(directory, rounds))


async def _measure(directory: str, rounds: int) -> list[Figure]:
    common, apart = [], []
    async with started(directory, num_kv_blocks=3200) as engine:
        await ask(engine, random_prompts(2, OWN, seed=5), NEW)
        for round_ in range(rounds):
            without = random_prompts(CONCURRENT, SHARED + OWN, seed=7_000 + round_)
            apart.append((await ask(engine, without, NEW)).end)
            shared = random_prompts(CONCURRENT, OWN, seed=9_000 + round_, shared=SHARED)
            common.append((await ask(engine, shared, NEW)).end)
    return [
        compare(
            f"{SHARED:,} shared tokens at {CONCURRENT}",
            common,
            apart,
            peer_name="no reuse",
            unit="s",
            goal=GOAL,
            less_is_better=True,
        )
    ]
