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
    content: list[BlockEvent] | Body | None
    """Events of a batch, another body, or None where everything was dropped."""
    num_events: int
    size_bytes: int = 0
    sealed: bool = False


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

    def add_events(self, events: tuple[BlockEvent, ...], now_unix_ns: int) -> bool:
        """Let one call's events wait together; False if they were dropped."""
        if self._num_events + len(events) > self.max_events:
            self._drop(len(events), now_unix_ns)
            return False
        size_bytes = sum(map(approximate_bytes, events))
        tail = self._queue[-1] if self._queue else None
        if tail is not None and _has_room(tail, len(events), size_bytes):
            assert isinstance(tail.content, list)
            tail.content.extend(events)
            tail.num_events += len(events)
            tail.size_bytes += size_bytes
            self._num_events += len(events)
        else:
            self._append(list(events), len(events), now_unix_ns, size_bytes)
        return True

    def add(self, body: Body, now_unix_ns: int, *, even_if_full: bool = False) -> bool:
        """Let a body wait as a frame of its own; False if it was dropped."""
        if self._num_events >= self.max_events and not even_if_full:
            self._drop(1, now_unix_ns)
            return False
        self._append(body, 1, now_unix_ns)
        return True

    def seal(self) -> None:
        """Let no more events join: somebody was told that `head_seq` is complete."""
        if self._queue:
            self._queue[-1].sealed = True

    def take(self) -> NumberedBody | None:
        """The oldest frame, now beyond change; None when nothing waits."""
        if not self._queue:
            return None
        frame = self._queue.popleft()
        match frame.content:
            case None:
                body: Body = Tombstone(frame.first_seq, frame.seq, "queue full")
            case list(events):
                self._num_events -= frame.num_events
                body = BlockBatch(tuple(events))
            case other:
                self._num_events -= frame.num_events
                body = other
        return NumberedBody(frame.first_seq, frame.seq, frame.ts_unix_ns, body)

    def _append(
        self,
        content: list[BlockEvent] | Body | None,
        num_events: int,
        now_unix_ns: int,
        size_bytes: int = 0,
    ) -> None:
        self.head_seq += 1
        if content is not None:
            self._num_events += num_events
        self._queue.append(
            _Waiting(self.head_seq, self.head_seq, now_unix_ns, content, num_events, size_bytes)
        )

    def _drop(self, num_events: int, now_unix_ns: int) -> None:
        self.dropped_events += num_events
        if self._queue and self._queue[-1].content is None:
            self.head_seq += 1
            self._queue[-1].seq = self.head_seq
        else:
            self._append(None, num_events, now_unix_ns)

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
        num_bytes += len(event.sealed.ciphertext) if event.sealed else 0
    return num_bytes


def _has_room(tail: _Waiting, num_events: int, size_bytes: int) -> bool:
    return (
        isinstance(tail.content, list)
        and not tail.sealed
        and tail.num_events + num_events <= FULL_FRAME_EVENTS
        and tail.size_bytes + size_bytes <= FULL_FRAME_BYTES
    )
