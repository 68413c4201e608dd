"""What the end-to-end tests say to the OpenAI API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from shepherd_cli.chat import server_sent_events
from shepherd_cli.stack import Service, Stack

MODEL = "tiny"


@dataclass(frozen=True, slots=True)
class Client:
    """Asks one frontend for one model."""

    stack: Stack
    frontend: Service
    model: str

    async def post(
        self, path: str, body: dict[str, Any], **headers: str
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON answer of a request."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"{self.frontend.url}/v1/{path}"
        body = {"model": self.model, **body}
        async with self.stack.http.post(url, json=body, headers=sent) as response:
            return response.status, await response.json(content_type=None)

    async def complete(self, prompt: str | list[int], **options: Any) -> dict[str, Any]:
        """The answer of a greedy completion that must succeed."""
        body = {"prompt": prompt, "temperature": 0, "max_tokens": 16, **options}
        status, answer = await self.post("completions", body)

        assert status == 200, answer
        return answer

    async def chat(
        self, messages: list[dict[str, str]], *, session: str = "", **options: Any
    ) -> dict[str, Any]:
        """The answer of a greedy chat request that must succeed."""
        body = {"messages": messages, "temperature": 0, "max_tokens": 16, **options}
        headers = {"x_dynamo_session_id": session} if session else {}
        status, answer = await self.post("chat/completions", body, **headers)

        assert status == 200, answer
        return answer

    async def stream(
        self, prompt: str, *, on_begin: Callable[[], None] = lambda: None, **options: Any
    ) -> list[dict[str, Any]]:
        """Every event of a greedy streamed completion; `on_begin` is called before the first."""
        body = {"model": self.model, "prompt": prompt, "temperature": 0, "stream": True, **options}
        url = f"{self.frontend.url}/v1/completions"
        async with self.stack.http.post(url, json=body) as response:
            assert response.status == 200, await response.text()
            on_begin()
            return [event async for event in server_sent_events(response.content)]


async def health(stack: Stack, worker: Service) -> dict[str, Any]:
    """A worker's own report."""
    report: dict[str, Any] = await stack.get_json(worker.url + "/engine/shepherd/health")
    return report


async def eventually(
    condition: Callable[[], Awaitable[Any]], *, timeout_s: float = 20.0, what: str = ""
) -> Any:
    """The first true answer of `condition`; fails the test when none comes."""
    deadline = time.monotonic() + timeout_s
    while not (answer := await condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what or condition}"
        await asyncio.sleep(0.05)
    return answer
