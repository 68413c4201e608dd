"""Server-sent events: from bytes to events and back.  Pure but for the bytes' coming."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import msgspec

MAX_EVENT_BYTES = 16 << 20
DONE = b"data: [DONE]\n\n"


class EventTooLargeError(ValueError):
    """An event that nobody sends in earnest."""


class Event(NamedTuple):
    """One event as it came."""

    raw: bytes
    """With the empty line that ends it."""
    data: bytes

    @property
    def is_done(self) -> bool:
        """Whether the stream says that it is at its end."""
        return self.data == b"[DONE]"

    def document(self) -> Any:
        """The data as JSON; None where it is none."""
        try:
            return msgspec.json.decode(self.data)
        except msgspec.DecodeError:
            return None


class Splitter:
    """Events out of the bytes of one stream; what comes after the last empty line is none."""

    def __init__(self) -> None:
        self._waiting = b""

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that are complete now.

        Raises:
            EventTooLargeError: an event does not end.
        """
        waiting = self._waiting + chunk
        if b"\r" in waiting:
            waiting = waiting.replace(b"\r\n", b"\n")
        *complete, self._waiting = waiting.split(b"\n\n")
        if len(self._waiting) > MAX_EVENT_BYTES:
            raise EventTooLargeError(f"an event of more than {MAX_EVENT_BYTES} bytes")
        return [_event(block) for block in complete]


async def events_of(chunks: AsyncIterator[bytes]) -> AsyncIterator[Event]:
    """Events as soon as they are complete.

    Raises:
        EventTooLargeError: an event does not end.
    """
    splitter = Splitter()
    async for chunk in chunks:
        for event in splitter.feed(chunk):
            yield event


def encoded(document: Any, name: str = "") -> bytes:
    """An event with a document as its data."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + msgspec.json.encode(document) + b"\n\n"


def _event(block: bytes) -> Event:
    if block.startswith(b"data:") and b"\n" not in block:
        return Event(block + b"\n\n", block[5:].lstrip())
    lines = [line[5:].lstrip() for line in block.split(b"\n") if line.startswith(b"data:")]
    return Event(block + b"\n\n", b"\n".join(lines))
