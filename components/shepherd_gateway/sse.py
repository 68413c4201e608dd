"""Server-sent events: from bytes to events and back.  Pure but for the bytes' coming."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec

MAX_EVENT_BYTES = 16 << 20
DONE = b"data: [DONE]\n\n"


class EventTooLargeError(ValueError):
    """An event that nobody sends in earnest."""


@dataclass(frozen=True, slots=True)
class Event:
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


async def events_of(chunks: AsyncIterator[bytes]) -> AsyncIterator[Event]:
    """Events as soon as they are complete; what comes after the last empty line is none.

    Raises:
        EventTooLargeError: an event does not end.
    """
    waiting = b""
    async for chunk in chunks:
        waiting += chunk.replace(b"\r\n", b"\n")
        *complete, waiting = waiting.split(b"\n\n")
        for block in complete:
            yield _event(block)
        if len(waiting) > MAX_EVENT_BYTES:
            raise EventTooLargeError(f"an event of more than {MAX_EVENT_BYTES} bytes")


def encoded(document: Any, name: str = "") -> bytes:
    """An event with a document as its data."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + msgspec.json.encode(document) + b"\n\n"


def _event(block: bytes) -> Event:
    lines = [line[5:].lstrip() for line in block.split(b"\n") if line.startswith(b"data:")]
    return Event(block + b"\n\n", b"\n".join(lines))
