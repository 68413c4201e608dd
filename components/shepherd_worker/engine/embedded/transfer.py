"""KV blocks from a prefill worker to a decode worker, over one TCP connection each.

    decode                                     prefill
    ------                                     -------
    REQUEST  transfer id, first, count  --->   the lease with this id, once
                                        <---   BLOCKS  records of up to 1 MiB, until all are sent
                                        <---   or REFUSED, when there is nothing to fetch

A frame is a header and a body; the header says the body's kind, its length, a
CRC-32 over kind, fingerprint and body, and the model's fingerprint.  Whoever
receives one checks length and fingerprint before it makes room for the body.
Nothing here interprets the records, and no failure here is a client's error: a
prompt that cannot be fetched is computed.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from urllib.parse import urlsplit

from shepherd_worker.engine.protocol import Handoff
from shepherd_worker.errors import UnusableInputError

log = logging.getLogger(__name__)

FRAME_TIMEOUT_S = 5.0
"""How long either side waits for the other's next frame."""
FRAME_BYTES = 1 << 20
"""Records travel in frames of at most this size, unless one alone is larger."""
_MAGIC = b"SKV1"
_HEADER = struct.Struct("<4sBII32s")
_REQUEST = struct.Struct("<16sII")


class TransferError(Exception):
    """The other side does not give what was asked for."""


class _Kind(IntEnum):
    REQUEST = 1
    BLOCKS = 2
    REFUSED = 3


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """What two workers must agree on to exchange blocks."""

    fingerprint: bytes
    """32 bytes."""
    block_bytes: int

    @property
    def blocks_per_frame(self) -> int:
        """Records in one full BLOCKS frame."""
        return max(1, FRAME_BYTES // self.block_bytes)


@dataclass(frozen=True, slots=True)
class _Lease:
    block_ids: tuple[int, ...]
    release: Callable[[], None]
    expiry: asyncio.TimerHandle


class TransferServer:
    """Hands leased blocks to whoever knows their transfer id, once; lives on the event loop."""

    def __init__(
        self,
        block_format: BlockFormat,
        read_blocks: Callable[[Sequence[int]], list[bytes]],
        *,
        lease_s: float,
        released: Callable[[], None],
    ) -> None:
        """`read_blocks` is called in other threads; `released` after a lease has ended."""
        self.leases_expired_total = 0
        self.bytes_sent_total = 0
        self._format = block_format
        self._read_blocks = read_blocks
        self._lease_s = lease_s
        self._released = released
        self._leases: dict[bytes, _Lease] = {}
        self._fetching: set[bytes] = set()
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.address = ""
        """`tcp://host:port`, once started."""

    @property
    def num_leases(self) -> int:
        """Leases whose blocks are still held."""
        return len(self._leases) + len(self._fetching)

    async def start(self, host: str) -> None:
        """Listen on a port of the system's choice.

        Raises:
            UnusableInputError: `host` is not an address of this machine.
        """
        try:
            self._server = await asyncio.start_server(self._serve, host, 0)
        except OSError as error:
            raise UnusableInputError(
                f"transfer_host={host!r} cannot be listened on: {error}"
            ) from error
        port = self._server.sockets[0].getsockname()[1]
        self.address = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"

    def lease(self, block_ids: Sequence[int], release: Callable[[], None]) -> str:
        """Offer blocks until they are fetched or the lease expires, then `release` them."""
        transfer_id = secrets.token_bytes(16)
        loop = asyncio.get_running_loop()
        expiry = loop.call_later(self._lease_s, self._expire, transfer_id)
        self._leases[transfer_id] = _Lease(tuple(block_ids), release, expiry)
        return transfer_id.hex()

    async def close(self) -> None:
        """Stop listening, break off what is being sent and release every lease."""
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
        for lease in self._leases.values():
            lease.expiry.cancel()
            lease.release()
        self._leases.clear()

    def _expire(self, transfer_id: bytes) -> None:
        lease = self._leases.pop(transfer_id)
        self.leases_expired_total += 1
        log.warning("a handoff was not fetched in %.0f s", self._lease_s)
        lease.release()
        self._released()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._answer(reader, writer)
        except (OSError, EOFError, TimeoutError, TransferError) as error:
            log.warning("a handoff was not handed over: %s", error)
        except Exception:
            log.exception("a handoff was not handed over")
        finally:
            self._connections.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(FRAME_TIMEOUT_S):
            body = await _receive(reader, _Kind.REQUEST, self._format.fingerprint, _REQUEST.size)
        transfer_id, first, count = _REQUEST.unpack(body)
        lease = self._leases.pop(transfer_id, None)
        if lease is None or first + count > len(lease.block_ids):
            writer.write(_encode(_Kind.REFUSED, self._format.fingerprint, b""))
        if lease is None:
            return
        lease.expiry.cancel()
        self._fetching.add(transfer_id)
        try:
            if first + count <= len(lease.block_ids):
                await self._send(writer, lease.block_ids[first : first + count])
        finally:
            self._fetching.discard(transfer_id)
            lease.release()
            self._released()

    async def _send(self, writer: asyncio.StreamWriter, block_ids: Sequence[int]) -> None:
        step = self._format.blocks_per_frame
        for start in range(0, len(block_ids), step):
            frame = await asyncio.to_thread(self._frame, block_ids[start : start + step])
            writer.write(frame)
            async with asyncio.timeout(FRAME_TIMEOUT_S):
                await writer.drain()
            self.bytes_sent_total += len(frame)

    def _frame(self, block_ids: Sequence[int]) -> bytes:
        body = b"".join(self._read_blocks(block_ids))
        return _encode(_Kind.BLOCKS, self._format.fingerprint, body)


class TransferClient:
    """Fetches blocks from other workers' transfer servers; lives on the event loop."""

    def __init__(
        self, block_format: BlockFormat, block_size: int, *, frame_timeout_s: float
    ) -> None:
        self.failures_total = 0
        self.bytes_received_total = 0
        self._format = block_format
        self._block_size = block_size
        self._frame_timeout_s = frame_timeout_s

    async def fetch(self, handoff: Handoff, first: int, count: int) -> list[memoryview]:
        """Records of blocks [first, first + count) of a handoff, whose lease ends thereby.

        Empty when they cannot be had; that is counted unless none were wanted.
        """
        try:
            self._check(handoff)
            records = await self._fetch(handoff, first, count)
        except (OSError, EOFError, TimeoutError, TransferError) as error:
            log.warning("a handoff cannot be fetched, its prompt is computed here: %r", error)
            self.failures_total += count > 0
            return []
        self.bytes_received_total += count * self._format.block_bytes
        return records

    def _check(self, handoff: Handoff) -> None:
        if handoff.model_fingerprint != self._format.fingerprint.hex():
            raise TransferError("the other side serves another model")
        if handoff.block_size != self._block_size:
            raise TransferError(f"the other side has blocks of {handoff.block_size} tokens")

    async def _fetch(self, handoff: Handoff, first: int, count: int) -> list[memoryview]:
        try:
            request = _REQUEST.pack(bytes.fromhex(handoff.transfer_id), first, count)
            where = urlsplit(handoff.address)
            host, port = where.hostname, where.port
        except (ValueError, struct.error) as error:
            raise TransferError(f"not a handoff: {error}") from error
        async with asyncio.timeout(self._frame_timeout_s):
            reader, writer = await asyncio.open_connection(host, port, limit=2 * FRAME_BYTES)
        try:
            writer.write(_encode(_Kind.REQUEST, self._format.fingerprint, request))
            return await self._collect(reader, count)
        finally:
            writer.close()

    async def _collect(self, reader: asyncio.StreamReader, count: int) -> list[memoryview]:
        size, records = self._format.block_bytes, list[memoryview]()
        while len(records) < count:
            expected = min(self._format.blocks_per_frame, count - len(records)) * size
            async with asyncio.timeout(self._frame_timeout_s):
                body = await _receive(reader, _Kind.BLOCKS, self._format.fingerprint, expected)
            view = memoryview(body)
            records += [view[at : at + size] for at in range(0, expected, size)]
        return records


def _encode(kind: _Kind, fingerprint: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(body, zlib.crc32(fingerprint + bytes([kind])))
    return _HEADER.pack(_MAGIC, kind, len(body), checksum, fingerprint) + body


async def _receive(
    reader: asyncio.StreamReader, kind: _Kind, fingerprint: bytes, num_bytes: int
) -> bytes:
    """The body of the next frame, which must be of this kind, model and size."""
    header = await reader.readexactly(_HEADER.size)
    magic, got_kind, length, checksum, got_fingerprint = _HEADER.unpack(header)
    if magic != _MAGIC:
        raise TransferError(f"expected a frame, got {magic!r}")
    if got_fingerprint != fingerprint:
        raise TransferError("the other side serves another model")
    if got_kind == _Kind.REFUSED:
        raise TransferError("the other side holds no such blocks any more")
    if got_kind != kind or length != num_bytes:
        raise TransferError(
            f"expected a frame of kind {kind} with {num_bytes} bytes, got kind {got_kind} with {length}"
        )
    body = await reader.readexactly(length)
    if zlib.crc32(body, zlib.crc32(fingerprint + bytes([got_kind]))) != checksum:
        raise TransferError("the checksum of a frame is wrong")
    return body
