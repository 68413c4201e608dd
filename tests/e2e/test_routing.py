"""Dynamo's KV router hears of our blocks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from openai_client import MODEL, Client, health
from shepherd_cli.stack import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
PROMPTS = [f"story number {n}: " + f"sheep {n} went over the hill and " * 12 for n in range(6)]


async def test_a_repeated_prompt_goes_to_the_worker_that_holds_its_prefix(
    stack: Stack, model_dir: Path
) -> None:
    args = ("--model", str(model_dir), "--served-model-name", MODEL, "--engine", "fake")
    async with asyncio.TaskGroup() as tasks:
        frontend = tasks.create_task(stack.frontend())
        workers = [tasks.create_task(stack.worker(f"worker-{n}", *args)) for n in (1, 2)]
    await stack.model_served(frontend.result(), MODEL)
    client = Client(stack, frontend.result(), MODEL)
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(client.complete(prompt, max_tokens=200)) for prompt in PROMPTS]
    first = [task.result() for task in asked]
    spread = [(await health(stack, w.result()))["blocks"]["cached"] for w in workers]

    second = [await client.complete(prompt, max_tokens=200) for prompt in PROMPTS]

    assert min(spread) > 0, "both workers hold some of the prompts"
    for before, after in zip(first, second, strict=True):
        assert after["choices"] == before["choices"]
        usage = after["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] >= usage["prompt_tokens"] - 16
    for path in ("frontend", "worker-1", "worker-2"):
        log = (stack.run_dir / f"{path}.log").read_text()
        assert "mismatch" not in log
