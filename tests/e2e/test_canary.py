"""What a client says, asks wrongly and stores is in no log, no metric, no error and no argument."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from openai_client import MODEL, Client, eventually
from shepherd_cli.stack import Service, Stack

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
CANARY = "xyzzycanary"
SECRET = "f00dfacef00dfacef00dfacef00dfacef00dfacef00dfacef00dfacef00dface"


async def metrics_of(stack: Stack, url: str) -> str:
    async with stack.http.get(url + "/metrics") as response:
        assert response.status == 200
        return await response.text()


def arguments_of(service: Service) -> str:
    """What `ps` shows to every user of the machine."""
    return Path(f"/proc/{service.process.pid}/cmdline").read_text()


async def refused(stack: Stack, memory: Service, path: str, data: bytes) -> str:
    """The text of a problem."""
    headers = {"content-type": "application/json"}
    async with stack.http.post(memory.url + path, data=data, headers=headers) as response:
        assert response.status >= 400
        return await response.text()


OURS = ("worker", "memory", "events", "gateway")
WRONG = (
    {"max_tokens": -1},
    {"messages": [{"role": "user", "content": CANARY}, {"role": "nobody", "content": CANARY}]},
    {"messages": [{"role": "user", "content": f"{CANARY} " * 400}]},
)
"""Requests that the gateway or the frontend refuses."""


async def asked_of_the_gateway(
    stack: Stack, gateway: Service, body: dict[str, Any], *, status: int = 0
) -> str:
    """The text of an answer, which must be a refusal if no status is expected."""
    said = [{"role": "user", "content": f"{CANARY} by the gateway"}]
    asked = {"model": MODEL, "messages": said, "max_tokens": 8} | body
    headers = {"x-dynamo-session-id": f"session-{CANARY}"}
    url = gateway.url + "/v1/chat/completions"
    async with stack.http.post(url, json=asked, headers=headers) as response:
        text = await response.text()
        assert (response.status == status) if status else (response.status >= 400), text
    return text


async def test_a_canary_is_in_no_log_metric_problem_or_argument(
    stack: Stack, tiny_chat_model: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"* {SECRET}\n")
    keys.chmod(0o600)
    stack.env["DYN_LOG"] = "info," + ",".join(f"shepherd_{part}=debug" for part in OURS)
    model = ("--model", str(tiny_chat_model), "--served-model-name", MODEL)
    cache = ("--num-kv-blocks", "28", "--max-seq-len", "440", "--kv-events-keys-file", str(keys))
    async with asyncio.TaskGroup() as tasks:
        frontend = tasks.create_task(stack.frontend())
        memory = tasks.create_task(stack.memory("--kv-events-keys-file", str(keys)))
        worker = tasks.create_task(stack.worker("worker", *model, *cache))
    await stack.model_served(frontend.result(), MODEL)
    client = Client(stack, frontend.result(), MODEL)
    gateway = await stack.gateway(frontend.result(), memory.result())

    for number in range(4):
        said = [{"role": "user", "content": f"{CANARY} {number} why is the sky blue?"}]
        await client.chat(said, session=f"session-{CANARY}-{number}", max_tokens=24)
    status, _ = await client.post("completions", {"prompt": CANARY * 200, "max_tokens": 4})
    assert status == 400

    async def kept() -> bool:
        async with stack.http.get(memory.result().url + "/v1/export") as response:
            return f"{CANARY} 3 why" in await response.text()

    await eventually(kept, what="the memory has the last turn")
    await stack.get_json(f"{memory.result().url}/v1/search", query=CANARY)
    problems = [
        await refused(stack, memory.result(), "/v1/memories", f'{{"question": "{CANARY}'.encode()),
        await refused(stack, memory.result(), "/v1/memories", f'{{"answer": "{CANARY}"}}'.encode()),
    ]
    problems += [await asked_of_the_gateway(stack, gateway, body) for body in WRONG]
    answer = await asked_of_the_gateway(stack, gateway, {}, status=200)
    assert "choices" in answer
    shown = [
        await metrics_of(stack, worker.result().url),
        await metrics_of(stack, gateway.url),
        arguments_of(gateway),
        await metrics_of(stack, memory.result().url),
    ]
    shown += [arguments_of(worker.result()), arguments_of(memory.result())]
    await stack.stop()
    logs = {
        name: (stack.run_dir / f"{name}.log").read_text()
        for name in ("worker", "memory", "gateway")
    }

    assert all(" INFO" in text for text in logs.values()), "what was looked at is no silence"
    for text in (*problems, *shown, *logs.values()):
        assert CANARY not in text
        assert SECRET not in text
