"""How many questions about evicted facts the tiny model answers right, with Shepherd and without."""

from __future__ import annotations

import asyncio

from benchmarks.figure import Figure, compare
from benchmarks.gateway_system import System, ask, evict, running

ANIMALS = ("dog", "cat", "horse", "parrot", "goat", "rabbit", "hamster", "donkey")
NAMES = ("Biscuit", "Pepper", "Domino", "Kiwi", "Figaro", "Clover", "Nugget", "Waffle")
FILL = [" ".join(f"w{number} {word}" for word in range(60)) for number in range(6)]
NUM_KV_BLOCKS = 96


def figures(rounds: int) -> list[Figure]:
    """See the module; the peer is a client that sends its last turn alone, as a full window makes it."""
    return asyncio.run(_figures(rounds))


async def _figures(rounds: int) -> list[Figure]:
    ours, theirs = [], []
    async with running("--num-kv-blocks", str(NUM_KV_BLOCKS), "--max-seq-len", "1024") as system:
        for number in range(rounds):
            right = [await _answered(system, number, place) for place in range(len(ANIMALS))]
            ours.append(100 * sum(a for a, _ in right) / len(right))
            theirs.append(100 * sum(b for _, b in right) / len(right))
    share = compare(
        "evicted facts answered right",
        ours,
        [max(each, 0.1) for each in theirs],
        peer_name="without Shepherd",
        unit="%",
    )
    return [share]


async def _answered(system: System, number: int, place: int) -> tuple[bool, bool]:
    animal, name = ANIMALS[place], NAMES[(place + number) % len(NAMES)]
    session = f"recall-{number}-{place}"
    talk: list[dict[str, str]] = []
    for text in (f"My {animal} is called {name}.", "Thank you."):
        talk.append({"role": "user", "content": text})
        answer = await ask(system, system.gateway, talk, session, max_tokens=48)
        talk.append({"role": "assistant", "content": answer.text})
    await evict(system, session, 1, fill=FILL)
    question = {"role": "user", "content": f"What is my {animal} called?"}
    with_us = await ask(system, system.gateway, [*talk, question], session, max_tokens=64)
    without = await ask(
        system, system.frontend, [*talk[-2:], question], f"{session}-without", max_tokens=64
    )
    return name in with_us.text, name in without.text
