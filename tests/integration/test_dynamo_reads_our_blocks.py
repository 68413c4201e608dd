"""Dynamo's own router reads our blocks in vLLM's form and chooses workers by them."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import pytest
from dynamo.llm import SelectionService

from shepherd_events.block_hash import block_hashes, root_hash, salt_id
from shepherd_events.events import (
    BlockHash,
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
    CacheContext,
    Tier,
)
from shepherd_events.foreign.msgpack_endpoint import MsgpackEndpoint
from shepherd_events.foreign.msgpack_publisher import MsgpackPublisher

SIZE = 4
TOKENS = array("I", range(100, 116))
PLAIN = CacheContext()
SALTED = CacheContext(cache_salt_id=salt_id("blue"))
ADAPTED = CacheContext("adapter")


def run(
    start: int = 0, stop: int = 4, tier: Tier = Tier.DEVICE, context: CacheContext = PLAIN
) -> BlocksStored:
    """Blocks [start, stop) of one prompt of four."""
    salt = "blue" if context is SALTED else ""
    root = root_hash(b"model", lora_name=context.lora_name, cache_salt=salt)
    hashes = array("Q", block_hashes(root, TOKENS, SIZE))
    parent = BlockHash(hashes[start - 1]) if start else None
    tokens = TOKENS[start * SIZE : stop * SIZE]
    return BlocksStored(hashes[start:stop], parent, tokens, start, tier, context)


class Router:
    """Dynamo's selection of workers, and two workers of ours."""

    def __init__(self) -> None:
        self.service = SelectionService(indexer_threads=1)
        self.workers = {number: self._worker() for number in (1, 2)}

    def _worker(self) -> MsgpackPublisher:
        endpoint = MsgpackEndpoint.parse("vllm://127.0.0.1:0?replay=0")
        publisher = MsgpackPublisher(endpoint, salt_of={salt_id("blue"): "blue"}.get)
        publisher.start()
        return publisher

    async def add(self, number: int) -> None:
        worker = self.workers[number]
        record = await self.service.upsert_worker(
            {
                "worker_id": number,
                "model_name": "model",
                "endpoint": f"http://127.0.0.1:{number}",
                "block_size": SIZE,
                "data_parallel_size": 1,
                "kv_events_endpoints": {0: worker.live},
                "replay_endpoint": worker.replay,
            }
        )
        assert record["lifecycle"] == "schedulable"
        await self._hears(number)

    async def _hears(self, number: int) -> None:
        """Returns once a worker's messages reach the router: its subscription is not seen from here."""
        async with asyncio.timeout(10):
            for token in count(1000):
                prompt = array("I", [token] * SIZE)
                hashes = array("Q", block_hashes(root_hash(b"model"), prompt, SIZE))
                self.workers[number].publish([BlocksStored(hashes, None, prompt, 0)])
                await asyncio.sleep(0.02)
                if await self.overlap(number, token_ids=prompt.tolist()):
                    return

    async def overlap(self, number: int, tier: str = "device", **asked: Any) -> int:
        """Blocks of the prompt that a worker is thought to hold."""
        question = {"model_name": "model", "token_ids": TOKENS.tolist(), **asked}
        answer = await self.service.overlap_scores(question)
        (row,) = [row for row in answer["workers"] if row["worker_id"] == number]
        return int(row[f"{tier}_blocks"])

    async def shows(self, blocks: int, number: int = 1, tier: str = "device", **asked: Any) -> None:
        async with asyncio.timeout(5):
            while await self.overlap(number, tier, **asked) != blocks:  # noqa: ASYNC110 - no callback
                await asyncio.sleep(0.01)


@pytest.fixture
async def router() -> AsyncIterator[Router]:
    router = Router()
    yield router
    router.service.shutdown()
    for worker in router.workers.values():
        worker.close()


async def test_the_worker_that_holds_the_prompt_is_chosen(router: Router) -> None:
    await router.add(1)
    await router.add(2)
    router.workers[1].publish([run(0, 2)])
    router.workers[2].publish([run()])
    await router.shows(2, 1)
    await router.shows(4, 2)
    question = {"model_name": "model", "token_ids": TOKENS.tolist(), "selection_id": "one"}

    chosen = await router.service.select(question)

    assert (chosen["worker_id"], chosen["overlap"]["gpu"]) == (2, 16)


async def test_what_was_said_before_the_router_came_is_replayed_to_it(router: Router) -> None:
    router.workers[1].publish([run(0, 2)])
    async with asyncio.timeout(5):
        while not router.workers[1].counters.messages:  # noqa: ASYNC110 - a thread sends
            await asyncio.sleep(0.001)
    await router.add(1)
    router.workers[1].publish([run(2, 4)])

    await router.shows(4)
    assert router.workers[1].counters.replays == 1


async def test_removals_and_clearings_reach_the_router(router: Router) -> None:
    await router.add(1)
    router.workers[1].publish([run()])
    await router.shows(4)
    router.workers[1].publish([BlocksRemoved(run(2).block_hashes)])
    await router.shows(2)
    router.workers[1].publish([BlocksCleared()])
    await router.shows(0)


async def test_tiers_keep_apart(router: Router) -> None:
    await router.add(1)
    router.workers[1].publish([run(), run(tier=Tier.HOST), BlocksRemoved(run(1).block_hashes)])

    await router.shows(1)
    await router.shows(4, tier="host_pinned")
    router.workers[1].publish([BlocksCleared(Tier.HOST)])
    await router.shows(1, tier="host_pinned")


async def test_tenants_and_adapters_keep_apart(router: Router) -> None:
    await router.add(1)
    router.workers[1].publish([run(context=SALTED), run(context=ADAPTED)])

    await router.shows(4, cache_salt="blue")
    await router.shows(4, lora_name="adapter")
    assert await router.overlap(1) == 0
    assert await router.overlap(1, cache_salt="green") == 0
