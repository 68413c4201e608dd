"""What reaches the consumer, in the order in which it takes effect."""

from __future__ import annotations

from dataclasses import dataclass

from shepherd_events.events import BlocksStored, Frame, StreamId
from shepherd_events.stream_cursor import Position


@dataclass(frozen=True, slots=True)
class StreamReplaced:
    """All that was known of a stream is void; this is what it holds at `position`."""

    stream: StreamId
    position: Position
    blocks: tuple[BlocksStored, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """A worker is gone, and its cache with it."""

    stream: StreamId


Arrival = Frame | StreamReplaced | StreamEnded
