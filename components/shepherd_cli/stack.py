"""The whole system on one machine: Dynamo's frontend, our workers, the memory service.

Every listener of ours is on loopback, and so are Dynamo's as far as its
settings allow: its ZMQ event plane binds all interfaces whatever one says.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

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
        self.env: dict[str, str] = dict(os.environ) | {
            "DYN_LOG": log,
            "DYN_DISCOVERY_BACKEND": "file",
            "DYN_FILE_KV": str(run_dir / "discovery"),
            "DYN_REQUEST_PLANE": "tcp",
            "DYN_EVENT_PLANE": "zmq",
            "DYN_NAMESPACE": namespace,
            "DYN_TCP_RPC_HOST": "127.0.0.1",
            "DYN_SYSTEM_HOST": "127.0.0.1",
            "DYN_TCP_RESPONSE_STREAM_HOST": "lo",
            "HF_HUB_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1",
            "SHEPHERD_ENGINE": "torch",  # what our tiny models are made for
        }

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
        port = free_port()
        process = await self._start(
            "frontend",
            "dynamo.frontend",
            *("--http-host", "127.0.0.1", "--http-port", str(port), "--router-mode", router_mode),
            *args,
        )
        service = Service(process, f"http://127.0.0.1:{port}")
        await process.until(lambda: self.answers(service.url + "/v1/models"), timeout_s=60)
        return service

    async def worker(
        self, name: str, *args: str, wait: bool = True, env: Mapping[str, str] | None = None
    ) -> Service:
        """Start a worker, with more environment if need be; ready when its status server says so."""
        port = free_port()
        process = await self._start(
            name, "shepherd_worker", "--system-port", str(port), *args, env=env
        )
        service = Service(process, f"http://127.0.0.1:{port}")
        if wait:
            await self.ready(service)
        return service

    async def memory(self, *args: str) -> Service:
        """Start the memory service; ready when it is alive."""
        port = free_port()
        data = str(self.run_dir / "memory")
        ports = ("--http-port", str(port), "--admin-port", str(free_port()))
        process = await self._start("memory", "shepherd_memory", *ports, "--data-dir", data, *args)
        service = Service(process, f"http://127.0.0.1:{port}")
        await process.until(lambda: self.answers(service.url + "/live"), timeout_s=60)
        return service

    async def gateway(self, frontend: Service, memory: Service | None, *args: str) -> Service:
        """Start the gateway before a frontend; ready when it is alive."""
        port = free_port()
        told = "none" if memory is None else memory.url
        where = ("--upstream", frontend.url, "--memory", told, "--http-port", str(port))
        process = await self._start(
            "gateway", "shepherd_gateway", *where, "--admin-port", "none", *args
        )
        service = Service(process, f"http://127.0.0.1:{port}")
        await process.until(lambda: self.answers(service.url + "/live"), timeout_s=60)
        return service

    async def ready(self, service: Service) -> None:
        """Wait until a worker's `/health` says 200."""
        await service.process.until(
            lambda: self.answers(service.url + "/health"), timeout_s=START_TIMEOUT_S
        )

    async def model_served(self, frontend: Service, model: str) -> None:
        """Wait until the frontend offers a model and the workers that it needs."""

        async def offered() -> bool:
            listed = await self.get_json(frontend.url + "/v1/models")
            return any(entry["id"] == model for entry in listed["data"])

        await frontend.process.until(offered, timeout_s=60, what=f"serving {model}")

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

    async def any_ended(self) -> ChildProcess:
        """Wait until a part ends by itself."""
        waiting = {asyncio.ensure_future(p.wait()): p for p in self._started}
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            return waiting[done.pop()]
        finally:
            for task in waiting:
                task.cancel()

    async def _start(
        self, name: str, module: str, *args: str, env: Mapping[str, str] | None = None
    ) -> ChildProcess:
        argv = [sys.executable, "-m", module, *args]
        log_path = self.run_dir / f"{name}.log"
        process = await ChildProcess.start(name, argv, self.env | dict(env or {}), log_path)
        self._started.append(process)
        return process

    async def answers(self, url: str) -> bool:
        """Whether something says 200 at a URL, within two seconds."""
        try:
            async with self.http.get(url, timeout=aiohttp.ClientTimeout(total=2)) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False


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
