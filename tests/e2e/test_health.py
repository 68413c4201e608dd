"""Health tells the truth: while the model loads, while nobody asks, while the worker leaves."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from openai_client import MODEL, Client, eventually, health
from shepherd_cli.stack import Service, Stack

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]


async def status(stack: Stack, worker: Service) -> int | None:
    """What `/health` says; None before anybody listens."""
    try:
        async with stack.http.get(worker.url + "/health") as response:
            return response.status
    except OSError:
        return None


async def test_a_worker_is_not_ready_while_its_model_loads(stack: Stack, model_dir: Path) -> None:
    worker = await stack.worker("loading", "--model", str(model_dir), wait=False)
    seen: list[int | None] = []

    async def ready() -> bool:
        seen.append(await status(stack, worker))
        return seen[-1] == 200

    await eventually(ready)

    assert 503 in seen
    assert await worker.process.stop(20) == 0


async def test_a_signal_while_the_model_loads_ends_the_worker_with_zero(
    stack: Stack, model_dir: Path
) -> None:
    worker = await stack.worker("early", "--model", str(model_dir), wait=False)

    async def listening() -> bool:
        return await status(stack, worker) == 503

    await eventually(listening)
    worker.process.signal(signal.SIGTERM)

    async with asyncio.timeout(20):
        assert await worker.process.wait() == 0


@pytest.mark.parametrize("role", ["aggregated", "prefill", "decode"])
async def test_dynamos_own_probe_is_answered_and_leaves_no_trace(
    stack: Stack, model_dir: Path, role: str
) -> None:
    probes = {"DYN_HEALTH_CHECK_ENABLED": "true", "DYN_CANARY_WAIT_TIME": "1"}
    args = ("--model", str(model_dir), "--engine", "fake", "--role", role)
    worker = await stack.worker(f"probed-{role}", *args, env=probes)

    async def probed() -> bool:
        async with stack.http.get(worker.url + "/metrics") as response:
            lines = (await response.text()).splitlines()
        told = {line.rsplit(" ", 1)[0]: line.rsplit(" ", 1)[1] for line in lines}
        assert told['shepherd_worker_requests_total{outcome="ok"}'] == "0.0"
        return float(told['shepherd_worker_canaries_total{outcome="ok"}']) >= 2

    await eventually(probed)
    report = await health(stack, worker)
    assert (report["phase"], report["requests"]["in_progress"]) == ("ready", 0)
    assert report["stream"]["head_seq"] == 1  # the stream's first frame: no block, no turn
    assert await status(stack, worker) == 200
    assert await worker.process.stop(20) == 0


async def test_a_draining_worker_is_not_ready_and_a_second_signal_ends_its_patience(
    stack: Stack, model_dir: Path
) -> None:
    args = ("--model", str(model_dir), "--served-model-name", MODEL)
    worker = await stack.worker("leaving", *args)
    frontend = await stack.frontend()
    await stack.model_served(frontend, MODEL)
    client = Client(stack, frontend, MODEL)
    body = {"prompt": "on and on", "max_tokens": 480, "ignore_eos": True, "temperature": 0}

    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(client.post("completions", body)) for _ in range(32)]

        async def running() -> bool:
            return bool((await health(stack, worker))["requests"]["in_progress"] == 32)

        await eventually(running)
        worker.process.signal(signal.SIGTERM)

        async def not_ready() -> bool:
            return await status(stack, worker) == 503

        await eventually(not_ready, timeout_s=1)
        assert (await health(stack, worker))["phase"] == "draining"
        worker.process.signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await worker.process.wait() == 0

    assert {task.result()[0] for task in asked} != {200}, "the second signal cut some of them"
