"""Asks a publisher for replays and snapshots, and believes only consistent answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from shepherd_events.codec import decode_reply, encode_request
from shepherd_events.control import (
    ControlReply,
    ControlRequest,
    ReplayReply,
    ReplayRequest,
    SnapshotReply,
    SnapshotRequest,
    Status,
)
from shepherd_events.errors import NoAnswerError, RequestFailedError
from shepherd_events.events import BlocksStored, StreamAddress, StreamId
from shepherd_events.resident_set import ResidentSet
from shepherd_events.stream_cursor import Position
from shepherd_events.transports.protocol import Connect, SubscriberTransport

_HEAD_ATTEMPTS = 4
_CHUNK_ATTEMPTS = 3
"""A lost chunk does not make a whole snapshot start again."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was resident when frame `position` was the head; its digest was checked."""

    position: Position
    blocks: tuple[BlocksStored, ...]


@asynccontextmanager
async def control_of(
    address: StreamAddress,
    *,
    timeout_s: float = 5.0,
    page_bytes: int = 512 << 10,
    connect: Connect,
) -> AsyncIterator[ControlClient]:
    """Ask a publisher without reading its stream.

    Raises:
        TransportError: the address names nothing that can be connected to.
    """
    transport = connect(address)
    try:
        yield ControlClient(address.stream, transport, timeout_s=timeout_s, page_bytes=page_bytes)
    finally:
        await transport.close()


class ControlClient:
    """The control wire of one stream, one request at a time."""

    def __init__(
        self,
        stream: StreamId,
        transport: SubscriberTransport,
        *,
        timeout_s: float,
        page_bytes: int,
    ) -> None:
        self._stream = stream
        self._transport = transport
        self._timeout_s = timeout_s
        self._page_bytes = page_bytes

    async def replay(self, epoch: int, from_seq: int) -> ReplayReply:
        """A page of frames, or why there is none: OK, COMPACTED, WRONG_EPOCH or AHEAD.

        Raises:
            KvEventsError: no answer, or another one; ask again later.
        """
        request = ReplayRequest(self._stream, epoch, from_seq, self._page_bytes)
        reply = await self._ask(request)
        if not isinstance(reply, ReplayReply):
            raise RequestFailedError("a replay was answered with a snapshot")
        if reply.status in (Status.BUSY, Status.DENIED, Status.UNSUPPORTED):
            raise RequestFailedError(
                self._refusal(reply.status), retry_after_s=reply.retry_after_ms / 1000
            )
        if reply.status is not Status.WRONG_EPOCH and reply.epoch != epoch:
            raise RequestFailedError(f"epoch {epoch} was answered with epoch {reply.epoch}")
        return reply

    async def head(self, epoch: int) -> Position:
        """The last frame of the publisher's epoch, which may be another than the one guessed.

        Raises:
            KvEventsError: no answer, or another one; ask again later.
        """
        from_seq = 1
        for _ in range(_HEAD_ATTEMPTS):
            reply = await self.replay(epoch, from_seq)
            match reply.status:
                case Status.WRONG_EPOCH:
                    epoch, from_seq = reply.epoch, 1
                case Status.COMPACTED if not reply.head_seq:
                    from_seq = reply.first_available
                case _:
                    return Position(reply.epoch, reply.head_seq)
        raise RequestFailedError("the publisher forgets its frames faster than one can ask")

    async def snapshot(self) -> Snapshot:
        """Everything that is resident, in as many chunks as it takes.

        Raises:
            KvEventsError: no answer, or the chunks are not of one whole; ask again later.
        """
        first = chunk = await self._chunk(b"", 0)
        residents = ResidentSet(first.blocks)
        blocks = list(first.blocks)
        while not chunk.last:
            number = chunk.chunk + 1
            chunk = await self._chunk(first.snapshot_id, number)
            if _identity(chunk) != _identity(first) or chunk.chunk != number:
                raise RequestFailedError("the chunks are of different snapshots")
            blocks.extend(chunk.blocks)
            for run in chunk.blocks:
                residents.apply(run)
        if residents.digest() != chunk.tiers:
            raise RequestFailedError("the snapshot does not have the digest that it should have")
        return Snapshot(Position(first.epoch, first.as_of_seq), tuple(blocks))

    async def _chunk(self, snapshot_id: bytes, number: int) -> SnapshotReply:
        request = SnapshotRequest(self._stream, snapshot_id, number, self._page_bytes)
        for attempt in range(1, _CHUNK_ATTEMPTS + 1):
            try:
                reply = await self._ask(request)
                break
            except NoAnswerError:
                if attempt == _CHUNK_ATTEMPTS:
                    raise
        if not isinstance(reply, SnapshotReply) or reply.status is not Status.OK:
            raise RequestFailedError(f"no snapshot: {self._refusal(reply.status)}")
        return reply

    def _refusal(self, status: Status) -> str:
        if status is Status.DENIED:
            return f"whoever answers does not publish {self._stream}"
        return f"the publisher says {status.name}"

    async def _ask(self, request: ControlRequest) -> ControlReply:
        payload = await self._transport.request(encode_request(request), self._timeout_s)
        return decode_reply(payload)


def _identity(chunk: SnapshotReply) -> tuple[int, bytes, int]:
    return chunk.epoch, chunk.snapshot_id, chunk.as_of_seq
