"""Frames that are numbered and wait to be sent, without any I/O.

A number is reserved in the moment something happens, so that nothing that
happened can be lost without a hole that readers see.  Block events join the
newest frame while it waits ("natural batching": what gathers during one send
leaves with the next).  When the queue is full, a call's events are dropped as a
whole, its number is consumed all the same, and a tombstone waits in its place.

    numbers    2   3   4..6   7           head_seq 7
               |   |    |     |
    waiting    B   T    L     B (open)    B batch, T turn, L lost

Conservation: the numbers taken, in order, are 2, 3, 4, ... head_seq without a
hole, each once, alone or in the range of a tombstone.  Not safe for threads.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from shepherd_events.events import (
    BlockBatch,
    BlockEvent,
    BlocksCleared,
    BlocksStored,
    Body,
    Tombstone,
)

FULL_FRAME_EVENTS = 256
"""Block events that join one frame at most."""

FULL_FRAME_BYTES = 64 << 10
"""Size beyond which nothing joins a frame any more; one call may be larger by itself."""

_EVENT_OVERHEAD_BYTES = 32


@dataclass(frozen=True, slots=True)
class NumberedBody:
    """What one frame will carry; it stands for [first_seq, seq]."""

    first_seq: int
    seq: int
    ts_unix_ns: int
    body: Body

    @property
    def num_events(self) -> int:
        """Block events in a batch, 1 for any other body."""
        return len(self.body.events) if isinstance(self.body, BlockBatch) else 1


@dataclass(slots=True)
class _Waiting:
    first_seq: int
    seq: int
    ts_unix_ns: int
    body: Body | None = None
    """What is no batch; None where there are events, or where everything was dropped."""
    events: list[BlockEvent] = field(default_factory=list)
    room_events: int = 0
    """How many more may join."""
    room_bytes: int = 0


@dataclass(slots=True)
class Outbox:
    """See the module's docstring; number 1 of a stream is `StreamInfo`, sent by itself."""

    max_events: int
    head_seq: int = 1
    """The last number reserved."""
    dropped_events: int = 0
    _queue: deque[_Waiting] = field(default_factory=deque)
    _num_events: int = 0

    def __len__(self) -> int:
        """Frames that wait."""
        return len(self._queue)

    @property
    def num_bytes(self) -> int:
        """Of the block events that wait; see `approximate_bytes`."""
        return sum(FULL_FRAME_BYTES - frame.room_bytes for frame in self._queue if frame.events)

    @property
    def oldest_unix_ns(self) -> int | None:
        """When the oldest frame began to wait; None when nothing waits."""
        return self._queue[0].ts_unix_ns if self._queue else None

    def add_events(self, events: tuple[BlockEvent, ...], now_unix_ns: int) -> bool:
        """Let one call's events, one at least, wait together; False if they were dropped."""
        num_events, size_bytes = len(events), 0
        if self._num_events + num_events > self.max_events:
            self._drop(num_events, now_unix_ns)
            return False
        self._num_events += num_events
        for event in events:
            size_bytes += approximate_bytes(event)
        tail = self._queue[-1] if self._queue else None
        if tail is None or num_events > tail.room_events or size_bytes > tail.room_bytes:
            tail = self._append(now_unix_ns)
            tail.room_events, tail.room_bytes = FULL_FRAME_EVENTS, FULL_FRAME_BYTES
        tail.events += events
        tail.room_events -= num_events
        tail.room_bytes -= size_bytes
        return True

    def add(self, body: Body, now_unix_ns: int, *, even_if_full: bool = False) -> bool:
        """Let a body wait as a frame of its own; False if it was dropped."""
        if self._num_events >= self.max_events and not even_if_full:
            self._drop(1, now_unix_ns)
            return False
        self._num_events += 1
        self._append(now_unix_ns, body)
        return True

    def seal(self) -> None:
        """Let no more events join: somebody was told that `head_seq` is complete."""
        if self._queue:
            self._queue[-1].room_events = 0

    def take(self) -> NumberedBody | None:
        """The oldest frame, now beyond change; None when nothing waits."""
        if not self._queue:
            return None
        frame = self._queue.popleft()
        if frame.events:
            self._num_events -= len(frame.events)
            body: Body = BlockBatch(tuple(frame.events))
        elif frame.body is not None:
            self._num_events -= 1
            body = frame.body
        else:
            body = Tombstone(frame.first_seq, frame.seq, "queue full")
        return NumberedBody(frame.first_seq, frame.seq, frame.ts_unix_ns, body)

    def _append(self, now_unix_ns: int, body: Body | None = None) -> _Waiting:
        self.head_seq += 1
        frame = _Waiting(self.head_seq, self.head_seq, now_unix_ns, body)
        self._queue.append(frame)
        return frame

    def _drop(self, num_events: int, now_unix_ns: int) -> None:
        self.dropped_events += num_events
        tail = self._queue[-1] if self._queue else None
        if tail is None or tail.events or tail.body is not None:
            self._append(now_unix_ns)
        else:
            self.head_seq += 1
            tail.seq = self.head_seq

    def __repr__(self) -> str:
        return (
            f"<Outbox {len(self._queue)} frames, {self._num_events} events, head {self.head_seq}>"
        )


def approximate_bytes(event: BlockEvent) -> int:
    """Roughly what one event adds to a frame."""
    if isinstance(event, BlocksCleared):
        return _EVENT_OVERHEAD_BYTES
    num_bytes = _EVENT_OVERHEAD_BYTES + 8 * len(event.block_hashes)
    if isinstance(event, BlocksStored):
        num_bytes += 4 * len(event.token_ids)
        if event.sealed is not None:
            num_bytes += len(event.sealed.ciphertext)
    return num_bytes
