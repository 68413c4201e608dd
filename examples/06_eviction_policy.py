"""Decide yourself what a full cache forgets first, and measure it.

A policy of 20 lines prefers to keep the blocks of sessions that asked again: one
that came back once is likely to come back once more, while most first questions
stay the only one.  It counts a block of such a session as used `HEAD_START` block
uses later than it was.  Both policies see the same trace of 600 requests, most of
them single questions, between them a few conversations.  No model, no GPU.

Expected output:

    600 requests of 479 sessions, 121 of them a later turn
    lru              23.0% of the prompt tokens were cached
    KeepReturning    35.0% of the prompt tokens were cached
    forget nothing   45.6% of the prompt tokens were cached

A worker takes it with --eviction-policy MODULE:KeepReturning.

    python examples/06_eviction_policy.py
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Iterator
from dataclasses import replace
from random import Random

from shepherd_events.events import Attribution, BlockHash
from shepherd_worker.engine import create_engine
from shepherd_worker.engine.embedded.cache.eviction import Evictable, PriorityLru
from shepherd_worker.engine.protocol import EngineConfig
from shepherd_worker.request import GenerateRequest, StopConditions

HEAD_START = 400
NUM_REQUESTS, NUM_CONVERSATIONS = 600, 6
SMALL, ROOMY = 160, 5000
"""Blocks of a cache that must forget, and of one that need not."""


class KeepReturning:
    """Priority first; then the least recently used, where a returning session's have a head start."""

    def __init__(self) -> None:
        self._order = PriorityLru()

    def add(self, block: Evictable) -> None:
        """See `EvictionPolicy.add`."""
        if block.used_by is not None and block.used_by.turn > 1:
            block = replace(block, use_order=block.use_order + HEAD_START)
        self._order.add(block)

    def remove(self, block_hash: BlockHash) -> None:
        """See `EvictionPolicy.remove`."""
        self._order.remove(block_hash)

    def pop(self) -> BlockHash:
        """See `EvictionPolicy.pop`."""
        return self._order.pop()


def record_trace(seed: int) -> Iterator[GenerateRequest]:
    """Requests as they might come: four fifths ask once, the others go on with a conversation."""
    random = Random(seed)  # noqa: S311 - a trace, not secrets
    conversations: list[tuple[str, array[int], int]] = []
    for number in range(NUM_REQUESTS):
        session, said, turn = f"s{number}", array("I"), 0
        if len(conversations) == NUM_CONVERSATIONS and random.random() < 1 / 5:
            session, said, turn = conversations.pop(random.randrange(NUM_CONVERSATIONS))
        said = said + array("I", random.choices(range(1, 500), k=random.randint(40, 120)))
        yield GenerateRequest(
            request_id=f"r{number}",
            token_ids=said,
            stops=StopConditions(max_tokens=1, ignore_eos=True),
            origin=Attribution(f"r{number}", session, turn=turn + 1),
        )
        if len(conversations) < NUM_CONVERSATIONS and len(said) < 700:
            conversations.append((session, said, turn + 1))


async def hit_rate(trace: list[GenerateRequest], policy: str, num_kv_blocks: int) -> float:
    """The share of prompt tokens that were found in the cache."""
    engine = create_engine(
        "fake", EngineConfig(model="demo", num_kv_blocks=num_kv_blocks, eviction_policy=policy)
    )
    await engine.start()
    for request in trace:
        async for _ in engine.generate(request):
            pass
    stats = engine.stats()
    await engine.close()
    return stats.prompt_tokens_cached_total / stats.prompt_tokens_total


async def main() -> None:
    """One trace, two policies."""
    trace = list(record_trace(seed=1))
    turns = [request.origin.turn for request in trace if request.origin is not None]
    later = sum(turn > 1 for turn in turns)
    print(f"{len(trace)} requests of {len(trace) - later} sessions, {later} of them a later turn")
    for name, policy, num_kv_blocks in (
        ("lru", "lru", SMALL),
        ("KeepReturning", f"{__name__}:KeepReturning", SMALL),
        ("forget nothing", "lru", ROOMY),
    ):
        rate = await hit_rate(trace, policy, num_kv_blocks)
        print(f"{name:15} {rate:6.1%} of the prompt tokens were cached")


if __name__ == "__main__":
    asyncio.run(main())
