"""A conversation with the OpenAI HTTP API, as any client would have it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
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
    """The frontend or the gateway, without /v1."""
    model: str
    session_id: str = ""
    max_tokens: int = 48
    messages: list[Message] = field(default_factory=list)
    recalls: list[str] = field(default_factory=list)
    """What the model looked up for the last answer; a gateway tells it."""
    num_notices: int = 0
    """NOTICEs that stood in the last request; a gateway tells it."""

    async def say(self, text: str) -> AsyncIterator[str]:
        """Send a user message; yields the answer as it comes and keeps both in the history.

        Where the request fails or is given up, the history is as before.

        Raises:
            ChatError: the request was refused or broke.
        """
        asked: Message = {"role": "user", "content": text}
        answer = ""
        async for piece in stream_chat(self, [*self.messages, asked]):
            answer += piece
            yield piece
        self.messages += (asked, {"role": "assistant", "content": answer})

    def note(self, headers: Mapping[str, str]) -> None:
        """Take from an answer's headers what the gateway did."""
        self.recalls.clear()
        told = headers.get("x-shepherd-notices", "")
        self.num_notices = int(told) if told.isdecimal() else 0


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
    headers = {"x-shepherd-show-recall": "true"}
    if chat.session_id:
        headers["x-dynamo-session-id"] = chat.session_id
    url = chat.url + "/v1/chat/completions"
    async with chat.http.post(url, json=body, headers=headers) as response:
        if response.status != 200:
            raise ChatError(response.status, await response.text())
        chat.note(response.headers)
        async for event in server_sent_events(response.content):
            if "error" in event:
                raise ChatError(500, str(event["error"]))
            for choice in event.get("choices", ()):
                delta = choice["delta"]
                if recall := delta.get("reasoning_content"):
                    chat.recalls.append(recall.strip())
                if piece := delta.get("content"):
                    yield piece


async def server_sent_events(lines: aiohttp.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """The JSON data of each event until `[DONE]`."""
    async for line in lines:
        data = line.decode().removeprefix("data:").strip()
        if data == "[DONE]":
            return
        if data.startswith("{"):
            yield json.loads(data)
