"""What a NOTICE saves a session that returns: first token with its evicted turns left out, or computed again.

The model is a small one with a long context (`long_model.py`): what is saved grows with
the model's size.  A round takes about a minute on two cores.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import defaultdict
from pathlib import Path

from tokenizers import Tokenizer

from benchmarks.figure import Figure, compare
from benchmarks.gateway_system import System, ask, evict, running
from benchmarks.long_model import MAX_SEQ_LEN, make_long_model
from shepherd_cli.stack import Service

EVICTED_TOKENS = (2_000, 8_000, 32_000)
TURN_TOKENS = 2_000
FILL_TOKENS = 8_000
NUM_FILLERS = 6
NUM_KV_BLOCKS = 2_400
"""Of 16 tokens: the longest session fits, and little beside it."""


def figures(rounds: int) -> list[Figure]:
    """See the module."""
    return asyncio.run(_figures(rounds))


async def _figures(rounds: int) -> list[Figure]:
    taken: dict[int, list[tuple[float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="shepherd-bench-") as directory:
        model = Path(directory) / "long"
        tokenizer = make_long_model(model)
        options = ("--num-kv-blocks", str(NUM_KV_BLOCKS), "--max-seq-len", str(MAX_SEQ_LEN))
        async with running(*options, model=model) as system:
            again = await system.stack.gateway(
                system.frontend, system.memory, "--on-eviction", "recompute"
            )
            for number in range(rounds):
                for tokens in EVICTED_TOKENS:
                    times = [
                        await _returned(system, gateway, f"{way}{number}", tokens, tokenizer)
                        for way, gateway in (("notice", system.gateway), ("again", again))
                    ]
                    taken[tokens].append((times[0], times[1]))
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


async def _returned(
    system: System, service: Service, name: str, tokens: int, tokenizer: Tokenizer
) -> float:
    """Seconds to the first token of a session whose turns but the newest were evicted."""
    session = f"{name}-{tokens}"
    messages: list[dict[str, str]] = []
    num_turns = tokens // TURN_TOKENS
    for turn in range(num_turns + 1):
        words = _words(f"{session} {turn}", TURN_TOKENS if turn < num_turns else 1, tokenizer)
        messages.append({"role": "user", "content": words})
        answer = await ask(system, system.frontend, messages, session, max_tokens=2)
        messages.append({"role": "assistant", "content": answer.text})
    fill = [_words(str(number), FILL_TOKENS, tokenizer) for number in range(NUM_FILLERS)]
    await evict(system, session, num_turns, fill=fill)
    messages.append({"role": "user", "content": "Thank you."})
    return (await ask(system, service, messages, session, max_tokens=2)).ttft_s


def _words(name: str, tokens: int, tokenizer: Tokenizer) -> str:
    """About so many tokens that begin with a name."""
    word = " and then"
    each = len(tokenizer.encode(word).ids)
    return name + word * (tokens // each)
