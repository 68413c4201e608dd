"""A gateway over real connections, with a frontend and a memory that do what they are told."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from openai_client import eventually
from shepherd_cli.chat import server_sent_events
from shepherd_gateway.config import GatewayConfig
from shepherd_gateway.fake import FakeFrontend, FakeMemory
from shepherd_gateway.service import serve
from shepherd_telemetry.spans import NO_SPANS, Spans


@dataclass
class House:
    url: str
    http: aiohttp.ClientSession
    frontend: FakeFrontend
    memory: FakeMemory

    async def post(
        self, body: Mapping[str, Any], *, path: str = "chat/completions", **headers: str
    ) -> tuple[int, dict[str, Any], Mapping[str, str]]:
        """Status, document and headers of an answer."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        data = io.BytesIO(json.dumps({"model": "fake", **body}).encode())
        async with self.http.post(f"{self.url}/v1/{path}", data=data, headers=sent) as answer:
            return answer.status, await answer.json(), answer.headers

    async def chat(
        self, messages: Sequence[Mapping[str, Any]], session: str = "s", **body: Any
    ) -> tuple[dict[str, Any], Mapping[str, str]]:
        """The answer to a chat that must succeed, and its headers."""
        headers = {"x_dynamo_session_id": session} if session else {}
        status, answer, told = await self.post({"messages": messages, **body}, **headers)

        assert status == 200, answer
        return answer, told

    async def stream(
        self, messages: Sequence[Mapping[str, Any]], session: str = "s", **body: Any
    ) -> tuple[list[dict[str, Any]], Mapping[str, str]]:
        """The events of a streamed chat, and the headers."""
        body = {"model": "fake", "messages": messages, "stream": True, **body}
        headers = {"x-dynamo-session-id": session} if session else {}
        url = f"{self.url}/v1/chat/completions"
        async with self.http.post(url, json=body, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            return [event async for event in server_sent_events(answer.content)], answer.headers

    async def metrics(self) -> dict[str, float]:
        """Samples by name and labels."""
        async with self.http.get(f"{self.url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}


async def asked(frontend: FakeFrontend, number: int) -> None:
    """Wait until so many requests have come."""

    async def there() -> bool:
        return len(frontend.asked) >= number

    await eventually(there)


async def acknowledged(memory: FakeMemory, *notice_ids: str) -> None:
    """Wait until the memory has heard that these need not be told any more."""

    async def heard() -> bool:
        return set(memory.acknowledged) == set(notice_ids)

    await eventually(heard)


@asynccontextmanager
async def house(
    *,
    frontend: FakeFrontend | None = None,
    memory: FakeMemory | None = None,
    spans: Spans = NO_SPANS,
    **options: Any,
) -> AsyncIterator[House]:
    """A running gateway."""
    frontend, memory = frontend or FakeFrontend(), memory or FakeMemory()
    async with AsyncExitStack() as opened:
        upstream = await opened.enter_async_context(frontend.served())
        remembering = await opened.enter_async_context(memory.served())
        given = {"upstream": (upstream,), "memory": remembering, "http_port": 0} | options
        url = await opened.enter_async_context(gateway(spans=spans, **given))
        http = await opened.enter_async_context(aiohttp.ClientSession())
        yield House(url, http, frontend, memory)


@asynccontextmanager
async def gateway(*, spans: Spans = NO_SPANS, **options: Any) -> AsyncIterator[str]:
    """The URL of a gateway in this process."""
    config = GatewayConfig(**{"admin_port": None, "drain_timeout_s": 1} | options)
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving = asyncio.ensure_future(serve(config, spans=spans, on_ready=ready.set_result))
    await asyncio.wait([serving, ready], return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
    try:
        yield ready.result()
    finally:
        serving.cancel()
        await asyncio.wait([serving], timeout=10)
        if not serving.cancelled():
            serving.result()
