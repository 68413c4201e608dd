"""Prefill and decode in two processes: the same text, from KV that was moved."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from openai_client import MODEL, Client, eventually
from shepherd_cli.stack import Service, Stack

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
PROMPTS = [f"question {n}: " + "tell me about the sheep on the hill " * (3 + n) for n in range(6)]


async def metric(stack: Stack, worker: Service, name: str) -> float:
    async with stack.http.get(worker.url + "/metrics") as response:
        for line in (await response.text()).splitlines():
            if line.startswith(name):
                return float(line.split()[-1])
    raise AssertionError(f"no metric {name}")


@dataclass(frozen=True)
class Split:
    """A prefill and a decode worker, and how more of them are started."""

    decode: Service
    options: tuple[str, ...]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def split(stack: Stack, model_dir: Path) -> Split:
    options = ("--model", str(model_dir), "--served-model-name", MODEL)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(stack.worker("prefill", *options, "--role", "prefill"))
        decode = tasks.create_task(stack.worker("decode", *options, "--role", "decode"))
    return Split(decode.result(), options)


async def test_greedy_text_equals_the_aggregated_roles_and_the_prompts_kv_was_fetched(
    stack: Stack, model_dir: Path, split: Split
) -> None:
    one = ("--model", str(model_dir), "--served-model-name", "whole", "--component", "whole")
    async with asyncio.TaskGroup() as tasks:
        started = tasks.create_task(stack.frontend())
        tasks.create_task(stack.worker("whole", *one))
    frontend = started.result()
    for name in (MODEL, "whole"):
        await stack.model_served(frontend, name)
    disaggregated = Client(stack, frontend, MODEL)
    aggregated = Client(stack, frontend, "whole")

    async with asyncio.TaskGroup() as tasks:
        theirs = [tasks.create_task(aggregated.complete(p, max_tokens=32)) for p in PROMPTS]
        ours = [tasks.create_task(disaggregated.complete(p, max_tokens=32)) for p in PROMPTS]

    for left, right in zip(ours, theirs, strict=True):
        assert left.result()["choices"][0]["text"] == right.result()["choices"][0]["text"]
        assert left.result()["choices"][0]["finish_reason"] == "length"
    assert await metric(stack, split.decode, "shepherd_worker_kv_transfer_bytes_total") > 0
    ways = 'shepherd_worker_kv_transfers_total{transport="shm"}'
    assert await metric(stack, split.decode, ways) > 0
    remote = 'shepherd_worker_prompt_tokens_total{source="remote"}'
    assert await metric(stack, split.decode, remote) > 0
    assert await metric(stack, split.decode, "shepherd_worker_kv_transfer_failures_total") == 0


async def test_two_prefill_workers_share_the_work_of_a_dead_one(stack: Stack, split: Split) -> None:
    """A prefill worker that dies is left out once discovery has noticed."""
    second = await stack.worker("prefill-2", *split.options, "--role", "prefill")
    frontend = await stack.frontend(router_mode="round-robin")
    await stack.model_served(frontend, MODEL)
    client = Client(stack, frontend, MODEL)
    before = await client.complete(PROMPTS[0], max_tokens=32)
    second.process.kill()

    async def answered() -> bool:
        body = {"prompt": PROMPTS[0], "temperature": 0, "max_tokens": 32}
        status, answer = await client.post("completions", body)
        return status == 200 and answer["choices"] == before["choices"]

    await eventually(answered, timeout_s=30)
