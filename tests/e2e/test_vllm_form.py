"""A real worker's blocks in vLLM's form, read by Dynamo's own code: tokens, tenants, tiers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import zmq
from dynamo.llm import SelectionService

from openai_client import MODEL, Client, eventually
from shepherd_cli.stack import Stack, free_port

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
END = b"\xff" * 8
SIZE = 16


class Published:
    """What the worker has said so far."""

    def __init__(self) -> None:
        self.live, self.replay = free_port(), free_port()
        self.url = f"vllm://127.0.0.1:{self.live}?replay={self.replay}"

    def events(self) -> list[dict[str, Any]]:
        with zmq.Context() as context, context.socket(zmq.DEALER) as asking:
            asking.linger = 0
            asking.rcvtimeo = 5000
            asking.connect(f"tcp://127.0.0.1:{self.replay}")
            asking.send_multipart((b"", bytes(8)))
            events = []
            while (parts := asking.recv_multipart())[2] != END:
                events += msgspec.msgpack.decode(parts[3])[1]
            return events

    def prompts(self) -> dict[str, list[int]]:
        """Tokens of the chain that each salt began, the empty one's under ""."""
        chains: dict[str, list[int]] = {}
        for event in self.events():
            if event["type"] == "BlockStored":
                chains.setdefault(event.get("cache_salt", ""), []).extend(event["token_ids"])
        return chains


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def published(stack: Stack, model_dir: Path) -> AsyncIterator[tuple[Client, Published]]:
    published = Published()
    args = ("--model", str(model_dir), "--served-model-name", MODEL, "--engine", "fake")
    frontend = await stack.frontend()
    await stack.worker("w", *args, "--kv-events-also", published.url)
    await stack.model_served(frontend, MODEL)
    yield Client(stack, frontend, MODEL), published


async def test_dynamo_s_selection_knows_the_worker_s_blocks_and_keeps_tenants_apart(
    published: tuple[Client, Published],
) -> None:
    client, worker = published
    text = "a long story about many sheep that went over the hill " * 8
    await client.complete(text, max_tokens=4, cache_salt="blue")
    selection = SelectionService(indexer_threads=1)
    try:
        await selection.upsert_worker(
            {
                "worker_id": 1,
                "model_name": "m",
                "endpoint": "http://127.0.0.1:1",
                "block_size": SIZE,
                "data_parallel_size": 1,
                "kv_events_endpoints": {0: f"tcp://127.0.0.1:{worker.live}"},
                "replay_endpoint": f"tcp://127.0.0.1:{worker.replay}",
            }
        )

        numbers = count()

        async def known(**asked: Any) -> int:
            # something new is said, by which the selection notices what it has missed
            await client.complete(text + str(next(numbers)), max_tokens=1)
            tokens = worker.prompts()["blue"]
            question = {"model_name": "m", "token_ids": tokens, **asked}
            (row,) = (await selection.overlap_scores(question))["workers"]
            return int(row["device_blocks"])

        expected = len(worker.prompts()["blue"]) // SIZE

        async def all_known() -> bool:
            return await known(cache_salt="blue") == expected

        assert expected > 5
        await eventually(all_known)
        assert await known(cache_salt="green") == 0
    finally:
        selection.shutdown()
