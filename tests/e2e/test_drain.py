"""SIGTERM loses no stream."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from openai_client import MODEL, Client, eventually, health
from shepherd_cli.stack import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
NUM_STREAMS = 20


async def test_streams_that_run_at_sigterm_all_finish_and_the_worker_ends_with_zero(
    stack: Stack, model_dir: Path
) -> None:
    args = ("--model", str(model_dir), "--served-model-name", MODEL)
    worker = await stack.worker("worker", *args)
    frontend = await stack.frontend()
    await stack.model_served(frontend, MODEL)
    client = Client(stack, frontend, MODEL)
    options = {"max_tokens": 250, "ignore_eos": True}
    undisturbed = await client.complete("count with me", **options)

    async def all_run() -> bool:
        return bool((await health(stack, worker))["requests"]["in_progress"] == NUM_STREAMS)

    async with asyncio.TaskGroup() as tasks:
        streams = [
            tasks.create_task(client.stream("count with me", **options)) for _ in range(NUM_STREAMS)
        ]
        await eventually(all_run)
        worker.process.signal(signal.SIGTERM)

    for stream in streams:
        events = stream.result()
        text = "".join(choice["text"] for event in events for choice in event["choices"])
        assert text == undisturbed["choices"][0]["text"]
        assert events[-1]["choices"][0]["finish_reason"] == "length"
    async with asyncio.timeout(20):
        assert await worker.process.wait() == 0


async def test_a_worker_that_leaves_under_load_fails_no_request(
    stack: Stack, model_dir: Path
) -> None:
    """Dynamo's frontend retries what was under way to the worker only with a migration limit."""
    args = ("--model", str(model_dir), "--served-model-name", "pair", "--engine", "fake")
    retrying = ("--migration-limit", "3")
    async with asyncio.TaskGroup() as tasks:
        frontend = tasks.create_task(stack.frontend(*retrying, router_mode="round-robin"))
        leaving = tasks.create_task(stack.worker("leaving", *args))
        tasks.create_task(stack.worker("staying", *args))
    await stack.model_served(frontend.result(), "pair")
    client = Client(stack, frontend.result(), "pair")
    left = asyncio.Event()
    answers: list[dict[str, Any]] = []

    async def keep_asking() -> None:
        while not left.is_set():
            answers.append(await client.complete("hello", max_tokens=16))  # asserts 200

    async def under_load() -> bool:
        return len(answers) >= 20

    async with asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(keep_asking())
        await eventually(under_load)
        leaving.result().process.signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            assert await leaving.result().process.wait() == 0
        left.set()

    texts = {answer["choices"][0]["text"] for answer in answers}
    assert len(texts) == 1
    assert len(answers) > 50
