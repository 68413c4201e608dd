"""A gateway in a process of its own, that can be killed, before a frontend and a memory of ours."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from shepherd_cli.process import ChildProcess
from shepherd_cli.stack import Service, free_port
from shepherd_gateway.fake import FakeFrontend, FakeMemory

START_S = 60.0


@dataclass
class Outside:
    """What a gateway's process stands between."""

    directory: Path
    http: aiohttp.ClientSession
    frontend: FakeFrontend
    upstream: str
    memory: FakeMemory
    remembering: str

    @asynccontextmanager
    async def gateway(self, *options: str, port: int = 0) -> AsyncIterator[Service]:
        """A running one; killed at the end, if it still runs."""
        port = port or free_port()
        where = ("--upstream", self.upstream, "--memory", self.remembering)
        argv = [sys.executable, "-m", "shepherd_gateway", *where, "--http-port", str(port)]
        argv += ["--admin-port", "none", *options]
        child = await ChildProcess.start(
            "gateway", argv, dict(os.environ), self.directory / "gateway.log"
        )
        service = Service(child, f"http://127.0.0.1:{port}")
        try:
            await child.until(lambda: self._lives(service.url), timeout_s=START_S)
            yield service
        finally:
            child.kill()
            await child.wait()

    async def chat(
        self, service: Service, messages: list[Any], **headers: str
    ) -> tuple[int, dict[str, Any], Mapping[str, str]]:
        """Status, document and headers of an answer."""
        body = {"model": "fake", "messages": messages}
        url = f"{service.url}/v1/chat/completions"
        sent = {"x-dynamo-session-id": "s", **headers}
        async with self.http.post(url, json=body, headers=sent) as answer:
            return answer.status, await answer.json(), answer.headers

    async def _lives(self, url: str) -> bool:
        try:
            async with self.http.get(f"{url}/live") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False


@asynccontextmanager
async def outside(directory: Path) -> AsyncIterator[Outside]:
    """A frontend and a memory that do what they are told."""
    frontend, memory = FakeFrontend(), FakeMemory()
    async with (
        frontend.served() as upstream,
        memory.served() as remembering,
        aiohttp.ClientSession() as http,
    ):
        yield Outside(directory, http, frontend, upstream, memory, remembering)
