"""Dynamo's own ZMQ relay reads our publisher in vLLM's form, and its router routes by it."""

from __future__ import annotations

import asyncio
import os
import sys
from array import array
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from dynamo.llm import KvRouter, KvRouterConfig
from dynamo.runtime import DistributedRuntime

from openai_client import eventually
from shepherd_cli.stack import Stack
from shepherd_events.block_hash import block_hashes, root_hash
from shepherd_events.events import BlocksCleared, BlocksRemoved, BlocksStored
from shepherd_events.foreign.msgpack_endpoint import MsgpackEndpoint
from shepherd_events.foreign.msgpack_publisher import MsgpackPublisher

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
RELAY = Path(__file__).parent.parent / "relay_process.py"
SIZE = 16
TOKENS = array("I", range(100, 164))
HASHES = array("Q", block_hashes(root_hash(b"m"), TOKENS, SIZE))
PATH = "relaytest.backend.generate"


class Worker:
    """A publisher of ours, and Dynamo's relay of it in a process of its own."""

    def __init__(self) -> None:
        self.publisher = MsgpackPublisher(MsgpackEndpoint.parse("vllm://127.0.0.1:0?topic=kv"))
        self.publisher.start()

    async def start(self, stack: Stack, model: Path) -> int:
        argv = (str(RELAY), PATH, str(model), str(SIZE), self.publisher.live, "kv")
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            *argv,
            env=stack.env | {"DYN_LOG": "error"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self.process.stdout is not None
        return int(await self.process.stdout.readline())

    async def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        await self.process.wait()
        self.publisher.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def workers(stack: Stack, model_dir: Path) -> AsyncIterator[dict[int, MsgpackPublisher]]:
    async with AsyncExitStack() as cleanup:
        started = {}
        for worker in (Worker(), Worker()):
            cleanup.push_async_callback(worker.close)
            started[await worker.start(stack, model_dir)] = worker.publisher
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def router(stack: Stack, workers: object) -> AsyncIterator[KvRouter]:
    before = dict(os.environ)
    os.environ.update(stack.env)
    runtime = DistributedRuntime(asyncio.get_running_loop(), "file", "tcp", event_plane="zmq")
    endpoint = runtime.endpoint(PATH)
    client = await endpoint.client()
    await eventually(lambda: _count(client, 2))
    yield KvRouter(endpoint, SIZE, KvRouterConfig())
    runtime.shutdown()
    os.environ.clear()
    os.environ.update(before)


async def _count(client: object, expected: int) -> bool:
    return len(client.instance_ids()) == expected  # type: ignore[attr-defined] # Dynamo's


async def test_the_router_chooses_the_worker_whose_blocks_the_relay_told(
    router: KvRouter, workers: dict[int, MsgpackPublisher]
) -> None:
    one, two = workers
    run = BlocksStored(HASHES, None, TOKENS, 0)

    async def chosen(worker: int, blocks: int, publisher: MsgpackPublisher | None = None) -> bool:
        if publisher is not None:  # the relay's subscription is not seen from here
            publisher.publish([BlocksCleared(), run])
        best, _, overlap = await router.best_worker(TOKENS.tolist())
        return (best if blocks else worker, overlap) == (worker, blocks)

    await eventually(lambda: chosen(two, 4, workers[two]))
    workers[two].publish([BlocksRemoved(HASHES[1:])])
    await eventually(lambda: chosen(two, 1))
    await eventually(lambda: chosen(one, 4, workers[one]))
    workers[one].publish([BlocksCleared()])
    workers[two].publish([BlocksCleared()])
    await eventually(lambda: chosen(two, 0))
