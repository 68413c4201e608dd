"""N-gram speculation: the same engine with and without it, and transformers' prompt lookup.

repeating   greedy answers of a random model to a passage that is repeated: such a
            model soon goes round in circles, as an editor copies what stays
plain       answers sampled at temperature 1, in which next to nothing repeats:
            what speculation costs where it is of no use
"""

from __future__ import annotations

import asyncio

from benchmarks import transformers_peers as peers
from benchmarks.figure import Figure, compare
from benchmarks.workload import ask, random_model, random_prompts, started
from shepherd_worker.request import Sampling

PASSAGE, REPEATS, NEW, MAX_DRAFT = 64, 4, 96, 8
WITHOUT, LOOKUP = "no speculation", "transformers prompt lookup"


def figures(rounds: int) -> list[Figure]:
    """New tokens per second, from submission to the end."""
    with random_model() as directory:
        return asyncio.run(_measure(directory, rounds))


async def _measure(directory: str, rounds: int) -> list[Figure]:
    taken: dict[tuple[str, str], list[float]] = {}
    model = peers.load(directory)
    async with (
        started(directory, num_kv_blocks=1024) as without,
        started(
            directory, num_kv_blocks=1024, speculative="ngram", speculative_max_draft=MAX_DRAFT
        ) as ours,
    ):
        for engine in (without, ours):
            await ask(engine, random_prompts(1, PASSAGE, seed=5), 4)
        for round_ in range(rounds):
            (passage,) = random_prompts(1, PASSAGE, seed=11_000 + round_)
            seconds = await asyncio.to_thread(
                peers.prompt_lookup, model, passage * REPEATS, NEW, max_draft=MAX_DRAFT
            )
            taken.setdefault((LOOKUP, "repeating"), []).append(NEW / seconds)
            for name, engine in ((WITHOUT, without), ("ours", ours)):
                repeating = await ask(engine, [passage * REPEATS], NEW)
                sampling = Sampling(temperature=1.0, seed=round_)
                plain = await ask(engine, [passage], NEW, sampling=sampling)
                taken.setdefault((name, "repeating"), []).append(repeating.total)
                taken.setdefault((name, "plain"), []).append(plain.total)
    return [
        compare(
            f"n-gram speculation, {text}",
            taken["ours", text],
            taken[peer, text],
            peer_name=peer,
            unit="tokens/s",
            goal=goal,
        )
        for text, peer, goal in (
            ("repeating", WITHOUT, 2.0),
            ("repeating", LOOKUP, 1.0),
            ("plain", WITHOUT, 0.95),
        )
    ]
