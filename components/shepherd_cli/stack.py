"""The whole system on one machine, started part by part: for the demo, tests and benchmarks.

What the parts are, `parts.py` says; `shepherd up` keeps them running (`supervisor/`).
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from shepherd_cli import parts
from shepherd_cli.parts import Part
from shepherd_cli.probing import answers, offers
from shepherd_cli.process import ChildProcess

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 40.0


@dataclass(frozen=True, slots=True)
class Service:
    """A running part of the stack and the URL at which it answers."""

    process: ChildProcess
    url: str


class Stack:
    """Starts parts, each in a process of its own, and stops what it started."""

    def __init__(self, run_dir: Path, *, namespace: str = "shepherd", log: str = "warn") -> None:
        self.run_dir = run_dir
        self.namespace = namespace
        run_dir.mkdir(parents=True, exist_ok=True)
        self._started: list[ChildProcess] = []
        self.env = parts.environment(os.environ, run_dir, namespace=namespace, log=log)
        self.env["SHEPHERD_ENGINE"] = "torch"  # what our tiny models are made for

    async def __aenter__(self) -> Self:
        self.http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.http.close()
        await self.stop()

    async def frontend(self, *args: str, router_mode: str = "kv") -> Service:
        """Start Dynamo's OpenAI frontend; ready when it answers, with or without a model."""
        return await self._answering(
            parts.frontend(free_port(), *args, router_mode=router_mode), timeout_s=60
        )

    async def worker(
        self, name: str, *args: str, wait: bool = True, env: Mapping[str, str] | None = None
    ) -> Service:
        """Start a worker, with more environment if need be; ready when its status server says so."""
        part = parts.worker(name, free_port(), *args, env=env)
        service = Service(await self._start(part), part.url)
        if wait:
            await self.ready(service)
        return service

    async def memory(self, *args: str) -> Service:
        """Start the memory service; ready when it is alive."""
        data_dir = self.run_dir / "memory"
        part = parts.memory(free_port(), free_port(), data_dir, *args)
        return await self._answering(part, timeout_s=60)

    async def gateway(self, frontend: Service, memory: Service | None, *args: str) -> Service:
        """Start the gateway before a frontend; ready when it is alive."""
        told = "none" if memory is None else memory.url
        part = parts.gateway(free_port(), None, frontend.url, told, *args)
        return await self._answering(part, timeout_s=60)

    async def ready(self, service: Service) -> None:
        """Wait until a worker's `/health` says 200."""
        await service.process.until(
            lambda: self.answers(service.url + "/health"), timeout_s=START_TIMEOUT_S
        )

    async def model_served(self, frontend: Service, model: str) -> None:
        """Wait until the frontend offers a model and the workers that it needs."""
        await frontend.process.until(
            lambda: offers(self.http, frontend.url, model), timeout_s=60, what=f"serving {model}"
        )

    async def get_json(self, url: str, **params: str) -> Any:
        """The JSON document at `url`; an error status raises."""
        async with self.http.get(url, params=params) as response:
            response.raise_for_status()
            return await response.json(content_type=None)  # engine routes say text/plain

    async def stop(self) -> None:
        """Stop what was started, the latest first; workers drain."""
        started, self._started = self._started, []
        for process in reversed(started):
            await process.stop(STOP_TIMEOUT_S)

    def kill(self) -> None:
        """End everything at once."""
        for process in self._started:
            process.kill()

    async def _answering(self, part: Part, *, timeout_s: float) -> Service:
        process = await self._start(part)
        await process.until(lambda: self.answers(part.ready_url), timeout_s=timeout_s)
        return Service(process, part.url)

    async def _start(self, part: Part) -> ChildProcess:
        log_path = self.run_dir / f"{part.name}.log"
        env = self.env | dict(part.env)
        process = await ChildProcess.start(part.name, part.argv, env, log_path)
        self._started.append(process)
        return process

    async def answers(self, url: str) -> bool:
        """Whether something says 200 at a URL, within two seconds."""
        return await answers(self.http, url)


def free_port() -> int:
    """A loopback TCP port that was free a moment ago.

    Below the ephemeral range, so that no outgoing connection takes it meanwhile,
    and below 32768, the highest that Dynamo's status server understands.
    """
    while True:
        port = random.randint(20_000, 32_000)  # noqa: S311  no secret
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
