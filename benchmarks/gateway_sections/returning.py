"""What a NOTICE saves a session that returns: first token with its evicted turns left out, or computed again."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from benchmarks.figure import Figure, compare
from benchmarks.gateway_system import System, ask, evict, running
from shepherd_cli.stack import Service

EVICTED_TOKENS = (1000, 2000, 3000)
"""The tiny model's context holds 4096."""
NUM_KV_BLOCKS = 256
WORDS_A_TURN = 200
FILL = [" ".join(f"w{number} {word}" for word in range(150)) for number in range(8)]


def figures(rounds: int) -> list[Figure]:
    """See the module."""
    return asyncio.run(_figures(rounds))


async def _figures(rounds: int) -> list[Figure]:
    taken: dict[int, list[tuple[float, float]]] = defaultdict(list)
    async with running("--num-kv-blocks", str(NUM_KV_BLOCKS), "--max-seq-len", "4080") as system:
        again = await system.stack.gateway(
            system.frontend, system.memory, "--on-eviction", "recompute"
        )
        for number in range(rounds):
            for tokens in EVICTED_TOKENS:
                ours = await _returned(system, system.gateway, f"notice-{number}-{tokens}", tokens)
                theirs = await _returned(system, again, f"again-{number}-{tokens}", tokens)
                taken[tokens].append((ours, theirs))
    return [
        compare(
            f"TTFT, {tokens} tokens evicted",
            [ours * 1000 for ours, _ in pairs],
            [theirs * 1000 for _, theirs in pairs],
            peer_name="recompute",
            unit="ms",
            less_is_better=True,
        )
        for tokens, pairs in taken.items()
    ]


async def _returned(system: System, service: Service, session: str, tokens: int) -> float:
    """Seconds to the first token of a session whose turns but the newest were evicted."""
    messages: list[dict[str, str]] = []
    turns = max(2, tokens // 500)
    for turn in range(turns):
        words = " ".join(f"{session[0]}{turn}" for _ in range(tokens // turns // 3))
        messages.append({"role": "user", "content": f"{session} {turn} {words}"})
        answer = await ask(system, system.frontend, messages, session, max_tokens=4)
        messages.append({"role": "assistant", "content": answer.text})
    await evict(system, session, turns - 1, fill=FILL)
    messages.append({"role": "user", "content": "Thank you."})
    return (await ask(system, service, messages, session, max_tokens=4)).ttft_s
