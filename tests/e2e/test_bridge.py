"""A bridge that Dynamo's discovery shows is read by the memory service and by the command line."""

from __future__ import annotations

import asyncio
import sys
from array import array
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from openai_client import eventually
from shepherd_cli.stack import Service, Stack
from shepherd_events.block_hash import block_hashes, root_hash
from shepherd_events.events import BlocksRemoved, BlocksStored
from shepherd_events.foreign.msgpack_endpoint import MsgpackEndpoint
from shepherd_events.foreign.msgpack_publisher import MsgpackPublisher

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
TOKENS = array("I", range(64))
HASHES = array("Q", block_hashes(root_hash(b"any"), TOKENS, 16))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[MsgpackPublisher]:
    """What a vLLM worker would say."""
    publisher = MsgpackPublisher(MsgpackEndpoint.parse("vllm://127.0.0.1:0?replay=0"))
    publisher.start()
    publisher.publish([BlocksStored(HASHES, None, TOKENS, 0)])
    yield publisher
    publisher.close()


async def test_blocks_of_a_foreign_engine_reach_the_memory_service(
    stack: Stack, model_dir: Path, engine: MsgpackPublisher
) -> None:
    memory = await stack.memory("--components", "bridge")
    bridge = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shepherd_cli", "kv", "bridge", engine.live),
        *("--replay", engine.replay, "--worker-id", "v1", "--block-size", "16"),
        *("--register", f"{stack.namespace}.bridge", "--tokenizer", str(model_dir)),
        env=stack.env,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        await eventually(lambda: _blocks(stack, memory, 4))
        await eventually(lambda: _is_level(stack, memory))
        engine.publish([BlocksRemoved(HASHES[3:])])
        await eventually(lambda: _blocks(stack, memory, 3))

        args = ("stats", "v1", "--namespace", stack.namespace, "--component", "bridge", "--json")
        stats = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "shepherd_cli", "kv", *args),
            env=stack.env | {"DYN_LOG": "error"},
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await stats.communicate()
        assert b'"device": 3' in out, out
    finally:
        bridge.terminate()
        assert await bridge.wait() == 0


async def _blocks(stack: Stack, memory: Service, expected: int) -> bool:
    async with stack.http.get(memory.url + "/metrics") as response:
        return f"shepherd_memory_blocks {float(expected)}" in await response.text()


async def _is_level(stack: Stack, memory: Service) -> bool:
    report = await stack.get_json(memory.url + "/health")
    return [(s["stream"], s["state"]) for s in report["streams"]] == [("v1/0", "live")]
