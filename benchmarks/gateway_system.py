"""The system that the gateway's figures are taken on, and a client that times what it reads."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp

from shepherd_cli.chat import server_sent_events
from shepherd_cli.stack import Service, Stack
from shepherd_gateway.upstream import acknowledge
from shepherd_tiny_chat import MODEL_DIR

MODEL = "tiny"


@dataclass(frozen=True, slots=True)
class System:
    """Running processes."""

    stack: Stack
    frontend: Service
    memory: Service
    gateway: Service
    http: aiohttp.ClientSession


@dataclass(frozen=True, slots=True)
class Read:
    """One streamed answer."""

    text: str
    ttft_s: float
    gaps_s: tuple[float, ...]
    """Between its pieces."""


@asynccontextmanager
async def running(*worker: str, model: Path = MODEL_DIR) -> AsyncIterator[System]:
    """Frontend, one worker with this model and these options, memory and gateway."""
    with tempfile.TemporaryDirectory(prefix="shepherd-bench-") as directory:
        async with Stack(Path(directory)) as stack:
            stack.env["OMP_NUM_THREADS"] = "1"
            served = ("--model", str(model), "--served-model-name", MODEL)
            parser = ("--dyn-tool-call-parser", "hermes")
            frontend, memory, _ = await asyncio.gather(
                stack.frontend(),
                stack.memory("--archive-grace-s", "0.1", "--rate-limit-per-s", "0"),
                stack.worker("worker", *served, *parser, *worker),
            )
            await stack.model_served(frontend, MODEL)
            gateway = await stack.gateway(frontend, memory, "--rate-limit-per-s", "0")
            connector = aiohttp.TCPConnector(limit=0)
            async with aiohttp.ClientSession(connector=connector) as http:
                yield System(stack, frontend, memory, gateway, http)


async def ask(
    system: System,
    service: Service,
    messages: Sequence[Mapping[str, Any]],
    session: str,
    *,
    acknowledges: bool = True,
    **options: Any,
) -> Read:
    """Stream one greedy answer and time it.

    Without `acknowledges` as usual clients read: the frontend then holds small pieces back for 40 ms
    now and then, see `acknowledge`.
    """
    body = {"model": MODEL, "messages": messages, "stream": True, "temperature": 0, **options}
    headers = {"x-dynamo-session-id": session}
    began = time.perf_counter()
    times, text = [], ""
    url = f"{service.url}/v1/chat/completions"
    async with system.http.post(url, json=body, headers=headers) as answer:
        answer.raise_for_status()
        if acknowledges:
            acknowledge(answer)
        async for event in server_sent_events(answer.content):
            if acknowledges:
                acknowledge(answer)
            if "error" in event:
                raise RuntimeError(str(event["error"]))
            piece = "".join(c["delta"].get("content") or "" for c in event["choices"])
            if piece:
                times.append(time.perf_counter())
                text += piece
    if not times:
        return Read("", time.perf_counter() - began, ())
    gaps = tuple(later - sooner for sooner, later in pairwise(times))
    return Read(text, times[0] - began, gaps)


async def archived(system: System, session: str) -> int:
    """How many of a session's turns are archived."""
    url = f"{system.memory.url}/v1/sessions/{session}"
    async with system.http.get(url) as answer:
        return int((await answer.json())["archived_turns"]) if answer.status == 200 else 0


async def evict(system: System, session: str, turns: int, *, fill: Sequence[str]) -> None:
    """Talk of other things until so many of a session's turns are archived."""
    for attempt in range(8):
        for number, text in enumerate(fill):
            name = f"filler-{session}-{attempt}-{number}"
            said = [{"role": "user", "content": f"{name} {text}"}]
            await ask(system, system.frontend, said, name, max_tokens=1)
        await asyncio.sleep(0.5)
        if await archived(system, session) >= turns:
            return
    raise RuntimeError(f"{session} is not evicted: the cache is too large for what is said")


def cpu_s(service: Service) -> float:
    """Processor time that a process has used, in steps of nanoseconds."""
    tasks = Path(f"/proc/{service.process.pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


async def offered_tools(system: System) -> list[Any]:
    """What the gateway offers a model, so that a request without it can offer the same."""
    async with system.http.get(f"{system.memory.url}/v1/tools") as answer:
        tools = (await answer.json())["tools"]
    return [tool for tool in tools if tool["function"]["name"] == "search_memory"]
