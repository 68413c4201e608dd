"""Answers replay and snapshot requests; bytes in, bytes out, whatever the wire.

One request is answered at a time.  A snapshot is a view of the resident set,
taken together with the head's number, and turned into chunks as they are asked
for; it is forgotten when it was read to its end or nobody asked for a while.
The interpreter's lock is given up between parts of a chunk, because Python would
take it from a busy thread only after 5 ms.
Whatever is asked, an answer comes: nothing that a reader sends raises.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count

from shepherd_events.codec import decode_request, encode_reply
from shepherd_events.control import (
    ControlReply,
    ReplayReply,
    ReplayRequest,
    SnapshotReply,
    SnapshotRequest,
    Status,
)
from shepherd_events.errors import CodecError
from shepherd_events.events import BlocksStored, StreamId, TierState
from shepherd_events.outbox import approximate_bytes
from shepherd_events.replay_ring import ReplayRing
from shepherd_events.resident_set import ResidentView

logger = logging.getLogger(__name__)

MAX_PAGE_BYTES = 1 << 20
"""No page is larger than this, or than the single frame in it."""

_MAX_OPEN_SNAPSHOTS = 8
_SNAPSHOT_IDLE_S = 30.0
_SNAPSHOT_ABANDONED_S = 1.0
"""Readers ask again at once; who did not for so long has to begin anew where others wait."""
_BUSY_RETRY_MS = 250

_BREATH_S = 20e-6
_RUNS_BETWEEN_BREATHS = 32
"""While a snapshot is written, the engine's thread waits for no more than these."""


@dataclass(slots=True)
class _OpenSnapshot:
    chunks: Iterator[SnapshotReply]
    current: SnapshotReply
    asked_at: float

    def advance(self) -> None:
        """Go on to the next chunk; after the last one the view is let go."""
        self.current = next(self.chunks)
        if self.current.last:
            self.chunks = iter(())


class ControlServer:
    """Answers for one epoch of one stream; `answer` is called by one thread at a time."""

    def __init__(
        self,
        stream: StreamId,
        epoch: int,
        ring: ReplayRing,
        *,
        head_seq: Callable[[], int],
        snapshot: Callable[[], tuple[int, ResidentView]],
        seal: Callable[[BlocksStored], BlocksStored] = lambda run: run,
        clock: Callable[[], float] = time.monotonic,
        breathe: Callable[[], object] = lambda: time.sleep(_BREATH_S),
    ) -> None:
        self._stream = stream
        self._epoch = epoch
        self._ring = ring
        self._head_seq = head_seq
        self._snapshot = snapshot
        """The number of the head, and what was resident right after it."""
        self._seal = seal
        """What becomes of a run before it is written."""
        self._clock = clock
        self._breathe = breathe
        self._open: dict[bytes, _OpenSnapshot] = {}
        self._ids = count(1)
        self.replays = 0
        """Pages of frames sent."""
        self.snapshots = 0
        """Snapshots begun."""
        self.refused = 0
        """Requests that were not understood, or meant another stream."""

    def answer(self, payload: bytes) -> bytes:
        """The reply to one request."""
        try:
            request = decode_request(payload)
        except CodecError as error:
            self.refused += 1
            logger.warning("control request refused: %s", error, extra={"stream": self._stream})
            return encode_reply(ReplayReply(Status.UNSUPPORTED, self._epoch))
        reply: ControlReply
        if isinstance(request, ReplayRequest):
            reply = self._replay(request)
        else:
            reply = self._snapshot_chunk(request)
        try:
            return encode_reply(reply)
        except CodecError as error:
            logger.warning("control reply not encodable: %s", error, extra={"stream": self._stream})
            if isinstance(request, ReplayRequest):
                return encode_reply(
                    ReplayReply(Status.BUSY, self._epoch, retry_after_ms=_BUSY_RETRY_MS)
                )
            return encode_reply(SnapshotReply(Status.BUSY, self._epoch))

    def _replay(self, request: ReplayRequest) -> ReplayReply:
        reply = ReplayReply(Status.OK, self._epoch, self._ring.first_available, request.from_seq)
        if request.stream != self._stream:
            self.refused += 1
            return replace(reply, status=Status.DENIED)
        if request.epoch != self._epoch:
            return replace(reply, status=Status.WRONG_EPOCH)
        if request.from_seq > self._head_seq() + 1:
            return replace(reply, status=Status.AHEAD)
        page = self._ring.page(request.from_seq, min(request.max_bytes, MAX_PAGE_BYTES))
        if page is None:
            return replace(reply, status=Status.COMPACTED)
        self.replays += 1
        return replace(reply, next_seq=page.next_seq, head_seq=page.head_seq, frames=page.frames)

    def _snapshot_chunk(self, request: SnapshotRequest) -> SnapshotReply:
        reply = SnapshotReply(Status.DENIED, self._epoch, request.snapshot_id)
        if request.stream != self._stream:
            self.refused += 1
            return reply
        if not request.snapshot_id:
            return self._begin(request)
        opened = self._open.get(request.snapshot_id)
        if opened is None:
            return replace(reply, status=Status.COMPACTED)
        opened.asked_at = self._clock()
        if request.chunk == opened.current.chunk + 1 and not opened.current.last:
            opened.advance()
        if request.chunk != opened.current.chunk:
            return replace(reply, status=Status.COMPACTED)
        return opened.current

    def _begin(self, request: SnapshotRequest) -> SnapshotReply:
        if not self._make_room():
            return SnapshotReply(Status.BUSY, self._epoch)
        self.snapshots += 1
        as_of_seq, residents = self._snapshot()
        first = SnapshotReply(Status.OK, self._epoch, next(self._ids).to_bytes(8, "big"), as_of_seq)
        max_bytes = min(request.max_bytes, MAX_PAGE_BYTES)
        chunks = _chunks(first, self._sealed_runs(residents), residents.digest(), max_bytes)
        opened = _OpenSnapshot(chunks, next(chunks), self._clock())
        self._open[first.snapshot_id] = opened
        return opened.current

    def _sealed_runs(self, residents: ResidentView) -> Iterator[BlocksStored]:
        for number, run in enumerate(residents.snapshot(self._breathe), start=1):
            yield self._seal(run)
            if number % _RUNS_BETWEEN_BREATHS == 0:
                self._breathe()

    def _make_room(self) -> bool:
        """Forget who went away, then, if it must be, who is done or idle; False if all are busy."""
        now = self._clock()
        self._open = {
            key: opened
            for key, opened in self._open.items()
            if opened.asked_at >= now - _SNAPSHOT_IDLE_S
        }
        if len(self._open) < _MAX_OPEN_SNAPSHOTS:
            return True
        for key, opened in self._open.items():
            if opened.current.last or opened.asked_at <= now - _SNAPSHOT_ABANDONED_S:
                del self._open[key]
                return True
        return False


def _chunks(
    first: SnapshotReply,
    runs: Iterable[BlocksStored],
    digest: tuple[TierState, ...],
    max_bytes: int,
) -> Iterator[SnapshotReply]:
    """Chunk 0, 1, 2, ... of one snapshot; the last one says so and carries the digest."""
    chunk = first
    blocks: list[BlocksStored] = []
    size_bytes = 0
    for run in runs:
        run_bytes = approximate_bytes(run)
        if blocks and size_bytes + run_bytes > max_bytes:
            yield replace(chunk, blocks=tuple(blocks))
            chunk = replace(chunk, chunk=chunk.chunk + 1)
            blocks, size_bytes = [], 0
        blocks.append(run)
        size_bytes += run_bytes
    yield replace(chunk, blocks=tuple(blocks), tiers=digest, last=True)
