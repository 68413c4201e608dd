"""The responses API's events out of a chat completion's.  Pure but for their coming."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import msgspec

from shepherd_gateway.responses import Asked, call_item, document, message_item, text_part
from shepherd_gateway.sse import encoded, events_of
from shepherd_gateway.tools import Call, index_of


async def streamed(
    asked: Asked, events: AsyncIterator[bytes], created: int
) -> AsyncIterator[bytes]:
    """The response's events as those of the chat completion come."""
    telling = _Telling(asked, created)
    for event in telling.begin():
        yield event
    async for piece in events_of(events):
        chunk = piece.document()
        if isinstance(chunk, dict):
            for event in telling.take(chunk):
                yield event
    for event in telling.end():
        yield event


class _Telling:
    """Where a response is: which item is open, and what has been said."""

    def __init__(self, asked: Asked, created: int) -> None:
        self._asked = asked
        self._created = created
        self._sequence = 0
        self._output: list[dict[str, Any]] = []
        self._message = ""
        """Id of the open message; empty where there is none."""
        self._text = ""
        self._calls: dict[int, Call] = {}
        self._usage: Mapping[str, Any] | None = None
        self._error: Mapping[str, Any] | None = None
        self._status = "completed"

    def begin(self) -> Iterator[bytes]:
        """What comes before any word."""
        for name in ("response.created", "response.in_progress"):
            yield self._event(name, response=self._document("in_progress"))

    def take(self, chunk: Mapping[str, Any]) -> Iterator[bytes]:
        """What a piece of the chat completion makes."""
        if "error" in chunk:
            self._error = chunk["error"]
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            if choice.get("finish_reason") == "length":
                self._status = "incomplete"
            if text := delta.get("content"):
                yield from self._say(text)
            for piece in delta.get("tool_calls") or ():
                self._calls.setdefault(index_of(piece), Call()).add(piece)

    def end(self) -> Iterator[bytes]:
        """What is left to say."""
        if self._message:
            yield from self._close_message()
        for _, call in sorted(self._calls.items()):
            yield from self._call(call)
        if self._error is not None:
            code, message = "server_error", str(self._error.get("message"))
            failed = self._document("failed", error={"code": code, "message": message})
            yield self._event("response.failed", response=failed)
            return
        if not self._output:
            yield from self._open_message()
            yield from self._close_message()
        yield self._event(f"response.{self._status}", response=self._document(self._status))

    def _say(self, text: str) -> Iterator[bytes]:
        if not self._message:
            yield from self._open_message()
        self._text += text
        yield self._part_event("response.output_text.delta", delta=text, logprobs=[])

    def _open_message(self) -> Iterator[bytes]:
        item = message_item("", status="in_progress")
        self._message = item["id"]
        yield self._event("response.output_item.added", output_index=0, item=item)
        yield self._part_event("response.content_part.added", part=text_part(""))

    def _close_message(self) -> Iterator[bytes]:
        yield self._part_event("response.output_text.done", text=self._text, logprobs=[])
        yield self._part_event("response.content_part.done", part=text_part(self._text))
        item = message_item(self._text, item_id=self._message)
        self._output.append(item)
        yield self._event("response.output_item.done", output_index=0, item=item)

    def _call(self, call: Call) -> Iterator[bytes]:
        index = len(self._output)
        begun = call_item(call.call_id, call.name, "", status="in_progress")
        item = call_item(call.call_id, call.name, call.arguments, item_id=begun["id"])
        place = {"item_id": begun["id"], "output_index": index}
        yield self._event("response.output_item.added", output_index=index, item=begun)
        yield self._event("response.function_call_arguments.delta", **place, delta=call.arguments)
        yield self._event(
            "response.function_call_arguments.done",
            **place,
            name=call.name,
            arguments=call.arguments,
        )
        self._output.append(item)
        yield self._event("response.output_item.done", output_index=index, item=item)

    def _part_event(self, kind: str, **fields: Any) -> bytes:
        return self._event(kind, item_id=self._message, output_index=0, content_index=0, **fields)

    def _event(self, kind: str, /, **fields: Any) -> bytes:
        event = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return encoded(event, kind)

    def _document(self, status: str, *, error: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return document(
            self._asked,
            output=msgspec.json.decode(msgspec.json.encode(self._output)),
            created=self._created,
            status=status,
            usage=self._usage,
            error=error,
        )
