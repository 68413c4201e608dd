"""What `--dtype` changes on this CPU, beside our own float32.

8 prompts of 256 tokens, 64 new tokens each; `decode` and `ttft` as in `generation`.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import AsyncExitStack

from benchmarks.figure import Figure, compare
from benchmarks.workload import Timing, ask, random_model, random_prompts, started
from shepherd_worker.engine.embedded.model.linear import can_quantise

CONCURRENT, PROMPT, NEW = 8, 256, 64
EXACT = "float32"
OTHERS = ("bfloat16", "int8") if can_quantise() else ("bfloat16",)


def figures(rounds: int) -> list[Figure]:
    """Each type's own engine, round by round."""
    with random_model() as directory:
        taken = asyncio.run(_measure(directory, rounds))
    return [
        compare(
            f"{name} at {CONCURRENT} in {dtype}",
            [getattr(timing, name) for timing in taken[dtype]],
            [getattr(timing, name) for timing in taken[EXACT]],
            peer_name=f"our own {EXACT}",
            unit=unit,
            less_is_better=unit == "s",
        )
        for dtype in OTHERS
        for name, unit in (("decode", "tokens/s"), ("ttft", "s"))
    ]


async def _measure(directory: str, rounds: int) -> dict[str, list[Timing]]:
    taken: dict[str, list[Timing]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        engines = {
            dtype: await stack.enter_async_context(
                started(directory, num_kv_blocks=256, dtype=dtype)
            )
            for dtype in (EXACT, *OTHERS)
        }
        for engine in engines.values():
            await ask(engine, random_prompts(2, PROMPT, seed=5), 4)
        for round_ in range(rounds):
            prompts = random_prompts(CONCURRENT, PROMPT, seed=round_)
            for dtype, engine in engines.items():
                taken[dtype].append(await ask(engine, prompts, NEW))
    return taken
