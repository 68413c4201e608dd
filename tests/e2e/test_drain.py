"""SIGTERM loses no stream."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from openai_client import MODEL, Client, eventually, health
from shepherd_cli.stack import Stack, free_port
from shepherd_events.events import Frame, Goodbye, TurnCompleted
from shepherd_events.subscriber import subscribe

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
NUM_STREAMS = 20


async def read_to_its_goodbye(url: str) -> list[Frame]:
    """Every numbered frame of a stream, in order; the last is its goodbye."""
    frames: list[Frame] = []
    async with subscribe(url) as stream, asyncio.timeout(60):
        while not frames or not isinstance(frames[-1].body, Goodbye):
            item = await anext(stream)
            assert isinstance(item, Frame), "nothing had to be replaced by a snapshot"
            frames.append(item)
    return frames


async def test_streams_that_run_at_sigterm_all_finish_and_the_worker_ends_with_zero(
    stack: Stack, model_dir: Path, record_property: Callable[[str, Any], None]
) -> None:
    """And what the outbox held has left it: the stream's last frame is a goodbye, without a gap."""
    events = f"tcp://127.0.0.1:{free_port()}"
    args = ("--model", str(model_dir), "--served-model-name", MODEL)
    worker = await stack.worker("worker", *args, "--kv-events-endpoint", events)
    frontend = await stack.frontend()
    await stack.model_served(frontend, MODEL)
    client = Client(stack, frontend, MODEL)
    options = {"max_tokens": 250, "ignore_eos": True}
    undisturbed = await client.complete("count with me", **options)
    told = asyncio.create_task(read_to_its_goodbye(events))

    # Dynamo's frontend fails a request of which it has heard nothing when the worker leaves.
    begun = asyncio.Semaphore(0)
    stream = partial(client.stream, "count with me", on_begin=begun.release, **options)

    async def in_progress() -> int:
        return int((await health(stack, worker))["requests"]["in_progress"])

    async with asyncio.TaskGroup() as tasks:
        streams = [tasks.create_task(stream()) for _ in range(NUM_STREAMS)]
        for _ in range(NUM_STREAMS):
            await begun.acquire()
        running = await in_progress()
        record_property("injected", f"SIGTERM while {running} requests are in progress")
        worker.process.signal(signal.SIGTERM)
        await eventually(partial(_refused, client), what="the frontend sends it nothing more")
        still_running = await in_progress()
        record_property("in_progress_when_new_ones_are_refused", still_running)

    assert 0 < still_running <= running, "new requests were refused while the old ones ran"
    for each in streams:
        events = each.result()
        text = "".join(choice["text"] for event in events for choice in event["choices"])
        assert text == undisturbed["choices"][0]["text"]
        assert events[-1]["choices"][0]["finish_reason"] == "length"
    async with asyncio.timeout(20):
        assert await worker.process.wait() == 0
    frames = await told
    assert [frame.seq for frame in frames] == list(range(1, len(frames) + 1))
    turns = [frame.body for frame in frames if isinstance(frame.body, TurnCompleted)]
    whole = [turn for turn in turns if turn.generated_tokens == options["max_tokens"]]
    assert len(whole) == 1 + NUM_STREAMS


async def _refused(client: Client) -> bool:
    status, _ = await client.post("completions", {"prompt": "one more", "max_tokens": 1})
    return status in {404, 503}


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
