"""A conversation with the OpenAI HTTP API, as any client would have it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

Message = dict[str, str]


class ChatError(Exception):
    """The frontend answered with an error, at once or in the middle of a stream."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(f"HTTP {status}: {message}")


@dataclass(slots=True)
class Conversation:
    """One session: its history, and how the next message is asked."""

    http: aiohttp.ClientSession
    url: str
    """The frontend, without /v1."""
    model: str
    session_id: str = ""
    max_tokens: int = 48
    messages: list[Message] = field(default_factory=list)

    async def say(self, text: str) -> AsyncIterator[str]:
        """Send a user message; yields the answer as it comes and keeps both in the history.

        Raises:
            ChatError: the request was refused or broke.
        """
        self.messages.append({"role": "user", "content": text})
        answer = ""
        async for piece in stream_chat(self, self.messages):
            answer += piece
            yield piece
        self.messages.append({"role": "assistant", "content": answer})


async def stream_chat(chat: Conversation, messages: list[Message]) -> AsyncIterator[str]:
    """The pieces of one greedy answer to `messages`.

    Raises:
        ChatError: as `Conversation.say`.
    """
    body = {
        "model": chat.model,
        "messages": messages,
        "stream": True,
        "temperature": 0,
        "max_tokens": chat.max_tokens,
    }
    headers = {"x-dynamo-session-id": chat.session_id} if chat.session_id else {}
    url = chat.url + "/v1/chat/completions"
    async with chat.http.post(url, json=body, headers=headers) as response:
        if response.status != 200:
            raise ChatError(response.status, await response.text())
        async for event in server_sent_events(response.content):
            if "error" in event:
                raise ChatError(500, str(event["error"]))
            for choice in event.get("choices", ()):
                piece = choice["delta"].get("content")
                if piece:
                    yield piece


async def server_sent_events(lines: aiohttp.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """The JSON data of each event until `[DONE]`."""
    async for line in lines:
        data = line.decode().removeprefix("data:").strip()
        if data == "[DONE]":
            return
        if data.startswith("{"):
            yield json.loads(data)
