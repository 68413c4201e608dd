"""`shepherd kv` against a real worker, found through Dynamo's discovery."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from openai_client import MODEL, Client
from shepherd_cli.stack import Service, Stack

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(stack: Stack, model_dir: Path) -> Service:
    args = ("--model", str(model_dir), "--served-model-name", MODEL, "--num-kv-blocks", "20")
    return await stack.worker("w", *args, "--max-seq-len", "300", "--worker-id", "w-1")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(stack: Stack, worker: Service) -> AsyncIterator[Client]:
    frontend = await stack.frontend()
    await stack.model_served(frontend, MODEL)
    yield Client(stack, frontend, MODEL)


async def start(stack: Stack, *args: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shepherd_cli", "kv", *args),
        env=stack.env | {"DYN_LOG": "error"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def told(process: asyncio.subprocess.Process) -> str:
    """The next line of ours on stderr; Dynamo's log may say something before it."""
    assert process.stderr is not None
    while line := (await process.stderr.readline()).decode():
        if line.startswith(("+ ", "- ")):
            return line
    raise AssertionError("the process ended")


async def kv(stack: Stack, *args: str) -> tuple[int | None, str]:
    """Exit code and stdout; what was said on stderr is shown where the test fails."""
    process = await start(stack, *args)
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    print(args, err.decode())
    return process.returncode, out.decode()


async def test_the_turns_of_a_session_are_told_and_the_stream_adds_up_to_the_cache(
    stack: Stack, client: Client
) -> None:
    for number in range(4):
        question = f"{number} tell me a long story about number {number} " * 4
        await client.chat([{"role": "user", "content": question}], session=f"s-{number % 2}")

    shown = ("--from-start", "--type", "turn", "--session", "s-1", "--json", "-n", "2")
    code, out = await kv(stack, "tail", *shown)
    turns = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [(turn["worker"], turn["session"], turn["op"]) for turn in turns] == [
        ("w-1", "s-1", "turn")
    ] * 2
    code, out = await kv(stack, "tail", "--from-start", "--type", "removed", "--json", "-n", "1")
    assert (code, json.loads(out)["op"]) == (0, "removed")

    code, out = await kv(stack, "diff", "w-1")
    assert code == 0
    assert out.startswith("device  equal: ")
    code, out = await kv(stack, "top", "--once", "--json")
    (row,) = [json.loads(line) for line in out.splitlines()]
    assert (row["worker"], row["role"], row["state"]) == ("w-1", "aggregated", "live")
    assert row["turns"] == 4
    _, out = await kv(stack, "stats", "--json")
    assert json.loads(out)["blocks"] == row["blocks"]


async def test_a_worker_that_is_killed_leaves_and_one_that_nobody_knows_is_named(
    stack: Stack, client: Client, worker: Service
) -> None:
    process = await start(stack, "tail")
    assert (await told(process)).startswith("+ w-1/0 tcp://127.0.0.1:")
    worker.process.kill()
    async with asyncio.timeout(40):
        assert await told(process) == "- w-1/0\n"
    process.terminate()
    out, _ = await process.communicate()
    assert (process.returncode, out) == (0, b"")

    code, out = await kv(stack, "stats", "w-1", "--timeout", "1")
    assert (code, out) == (4, "")
