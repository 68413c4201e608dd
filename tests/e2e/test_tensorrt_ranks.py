"""Attention data parallelism behind Dynamo's frontend: the router knows each rank's cache, readers each rank's stream."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from openai_client import MODEL, Client, health
from shepherd_cli.stack import Stack
from trtllm_fake import fake_environment

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
PROMPTS = [f"story number {n}: " + f"sheep {n} went over the hill and " * 12 for n in range(6)]


async def streams(stack: Stack) -> list[dict[str, object]]:
    """What `shepherd kv` finds through discovery."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shepherd_cli", "kv", "top", "--once", "--json"),
        env=stack.env | {"DYN_LOG": "error"},
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        out, _ = await process.communicate()
    return [json.loads(line) for line in out.decode().splitlines()]


async def test_a_repeated_prompt_goes_to_the_rank_that_holds_its_prefix(
    stack: Stack, model_dir: Path
) -> None:
    """The fake takes requests without a rank in turn, so that half of them would miss."""
    args = ("--model", str(model_dir), "--served-model-name", MODEL, "--worker-id", "w")
    ranks = ("--tensor-parallel-size", "2", "--enable-attention-dp", "--num-kv-blocks", "256")
    async with asyncio.TaskGroup() as tasks:
        frontend = tasks.create_task(stack.frontend())
        environment = fake_environment(runner="fake")
        starting = tasks.create_task(stack.worker("ranks", *args, *ranks, env=environment))
    worker = starting.result()
    await stack.model_served(frontend.result(), MODEL)
    client = Client(stack, frontend.result(), MODEL)
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(client.complete(prompt, max_tokens=200)) for prompt in PROMPTS]
    first = [task.result() for task in asked]

    second = [await client.complete(prompt, max_tokens=200) for prompt in PROMPTS]

    for before, after in zip(first, second, strict=True):
        assert after["choices"] == before["choices"]
        usage = after["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] >= usage["prompt_tokens"] - 16
    found = sorted(await streams(stack), key=lambda row: str(row["rank"]))
    report = await health(stack, worker)
    assert [(row["worker"], row["rank"], row["state"]) for row in found] == [
        ("w", 0, "live"),
        ("w", 1, "live"),
    ]
    assert all(row["blocks"] for row in found)
    assert (report["stream"]["dp_rank"], report["other_streams"][0]["dp_rank"]) == (0, 1)
    for name in ("frontend", "ranks"):
        assert "mismatch" not in (stack.run_dir / f"{name}.log").read_text()
