"""Records through shared memory: the client looks into the server's and copies what is leased.

    once     ATTACH  --->  REGION + descriptor of the memory that all KV blocks lie in
    each     CLAIM   --->  EXTENTS: where the records begin in it
                           or COPY + descriptor, for records that lie elsewhere
             copy
             DONE    --->  RELEASED

The region is mapped once and stays mapped while the server lives: a fresh mapping
costs a page fault for every few pages, which is most of the time of a copy.  It
may be lent because it is sealed: a client can neither write nor shrink it, and a
client that may read it is of the same user, who could read it anyway.  The lease
keeps its blocks from being written; RELEASED says that it held until the copy was
whole, so what was copied needs no checksum: it never left this memory.

The socket lies in a directory of mode 0700, and both sides check the other's user.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import socket
import stat
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path

from shepherd_worker.engine.embedded.model.shared_memory import SharedMemory, map_readonly
from shepherd_worker.engine.embedded.transfer.connection import Connection, deadline_s
from shepherd_worker.engine.embedded.transfer.errors import TransferError
from shepherd_worker.engine.embedded.transfer.frames import (
    FRAME_BYTES,
    REGION_BYTES,
    Header,
    Kind,
    Request,
    pack_size,
    unpack_size,
)
from shepherd_worker.engine.embedded.transfer.leases import Source
from shepherd_worker.engine.embedded.transfer.server import TransferServer

SHM_SCHEME = "shm"
_WHOLE: Sequence[int] = (0,)
_PEER_CREDENTIALS = struct.Struct("iII")


def host_identity() -> str:
    """Equal where a path means the same file and a user id the same user."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    spaces = [Path(f"/proc/self/ns/{name}").stat().st_ino for name in ("mnt", "user")]
    return hashlib.blake2b(f"{boot}{spaces}{os.getuid()}".encode(), digest_size=8).hexdigest()


def socket_directory() -> Path:
    """Where this user's sockets lie; made if need be.

    Raises:
        OSError: somebody else's file stands there.
    """
    directory = Path(tempfile.gettempdir()) / f"shepherd-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{directory} is not a directory of mode 700 that is ours")
    return directory


def bind_unix(directory: Path) -> tuple[socket.socket, Path, str]:
    """A listening socket in `directory`, its path, and what clients connect to.

    Removes the sockets of processes that were killed.

    Raises:
        OSError: the directory or the path cannot be used.
    """
    for other in directory.glob("kv-*.sock"):
        if _is_dead(other):
            other.unlink(missing_ok=True)
    path = directory / f"kv-{secrets.token_hex(8)}.sock"
    fresh = path.with_suffix(".new")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(fresh))
        listener.listen()
        fresh.rename(path)  # nobody sees it before it listens, and takes it for a dead one
    except BaseException:
        listener.close()
        fresh.unlink(missing_ok=True)
        raise
    return listener, path, f"{SHM_SCHEME}://{host_identity()}{path}"


class ShmServer:
    """The server's part: lends the region, and copies what lies elsewhere."""

    def __init__(self, region: SharedMemory | None) -> None:
        self._region = region

    @staticmethod
    async def admit(sock: socket.socket, _: Connection) -> None:
        """See `TransferServer.listen`."""
        _require_same_user(sock)

    async def serve_attach(
        self, _server: TransferServer, connection: Connection, header: Header, _body: bytes
    ) -> None:
        """Answer ATTACH, and stay until the client goes."""
        if self._region is None:
            raise TransferError("no region is lent here")
        size = pack_size(len(self._region.memory))
        await connection.send(Kind.REGION, header.fingerprint, [size], fd=self._region.fd)
        await connection.closed()

    async def serve_claim(
        self, server: TransferServer, connection: Connection, header: Header, body: bytes
    ) -> None:
        """Answer CLAIM."""
        async with server.claimed(header, body) as (source, request):
            await self._show(connection, source, request)
            await connection.receive({Kind.DONE}, source.fingerprint, num_bytes=0)
        await connection.send(Kind.RELEASED, header.fingerprint)

    async def _show(self, connection: Connection, source: Source, request: Request) -> None:
        offsets = source.offsets(request.first, request.count)
        if offsets is not None:
            extents = struct.pack(f"<{len(offsets)}Q", *offsets)
            await connection.send(Kind.EXTENTS, source.fingerprint, [extents])
            return
        num_bytes = request.count * source.record_bytes
        copy = SharedMemory.allocate(max(1, num_bytes), "shepherd-copy")
        await _fill(memoryview(copy.memory), source, request)
        await connection.send(Kind.COPY, source.fingerprint, [pack_size(num_bytes)], fd=copy.fd)


class ShmTransport:
    """A `Transport`; see the module's docstring."""

    name = SHM_SCHEME

    def __init__(self, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._prefix = f"{SHM_SCHEME}://{host_identity()}/"
        self._regions: dict[str, asyncio.Task[memoryview]] = {}
        self._watching: set[asyncio.Task[None]] = set()

    @property
    def num_regions(self) -> int:
        """Servers whose memory is mapped here."""
        return len(self._regions)

    def reaches(self, address: str) -> bool:
        """See `Transport.reaches`."""
        return address.startswith(self._prefix)

    async def fetch(
        self, address: str, fingerprint: bytes, request: Request, into: memoryview
    ) -> None:
        """See `Transport.fetch`."""
        async with asyncio.timeout(deadline_s(len(into), self._timeout_s)):
            connection = await self._connect(address)
            try:
                await connection.send(Kind.CLAIM, fingerprint, [request.encode()])
                header, body = await connection.receive({Kind.EXTENTS, Kind.COPY}, fingerprint)
                if header.kind is Kind.COPY:
                    memory, offsets = _take_memory(connection, body), _WHOLE[: len(into)]
                else:
                    memory = await self._region(address, fingerprint)
                    offsets = _decode_extents(body, request.count)
                await _copy(memory, offsets, into)
                await connection.send(Kind.DONE, fingerprint)
                await connection.receive({Kind.RELEASED}, fingerprint, num_bytes=0)
            finally:
                connection.close()

    async def close(self) -> None:
        """See `Transport.close`."""
        tasks = (*self._watching, *self._regions.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connect(self, address: str) -> Connection:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        path = "/" + address.removeprefix(self._prefix)
        try:
            async with asyncio.timeout(self._timeout_s):
                await asyncio.get_running_loop().sock_connect(sock, path)
            _require_same_user(sock)
        except BaseException:
            sock.close()
            raise
        return Connection(sock, timeout_s=self._timeout_s)

    async def _region(self, address: str, fingerprint: bytes) -> memoryview:
        """The memory of a server, mapped at the first call and until the server goes."""
        attaching = self._regions.get(address)
        if attaching is None:
            attaching = asyncio.create_task(self._attach(address, fingerprint))
            self._regions[address] = attaching
            attaching.add_done_callback(lambda task: self._forget_failed(address, task))
        return await asyncio.shield(attaching)

    def _forget_failed(self, address: str, attaching: asyncio.Task[memoryview]) -> None:
        if attaching.cancelled() or attaching.exception() is not None:
            self._regions.pop(address, None)

    async def _attach(self, address: str, fingerprint: bytes) -> memoryview:
        connection = await self._connect(address)
        try:
            await connection.send(Kind.ATTACH, fingerprint)
            _, body = await connection.receive({Kind.REGION}, fingerprint)
            memory = _take_memory(connection, body)
        except BaseException:
            connection.close()
            raise
        watching = asyncio.create_task(self._watch(address, connection))
        self._watching.add(watching)
        watching.add_done_callback(self._watching.discard)
        return memory

    async def _watch(self, address: str, connection: Connection) -> None:
        """Unmap a server's memory when the server has gone."""
        try:
            await connection.closed()
        finally:
            self._regions.pop(address, None)
            connection.close()


def _take_memory(connection: Connection, body: bytes) -> memoryview:
    """The memory whose descriptor came with the last frame, of the size that its body says."""
    if len(body) != REGION_BYTES:
        raise TransferError(f"expected the size of a region, got {len(body)} bytes")
    fd = connection.take_fd()
    try:
        memory = map_readonly(fd)
    finally:
        os.close(fd)
    if len(memory) < unpack_size(body):
        raise TransferError(f"a region of {len(memory)} bytes is smaller than was said")
    return memory


def _decode_extents(body: bytes, count: int) -> Sequence[int]:
    if len(body) != 8 * count:
        raise TransferError(f"expected {count} extents, got {len(body)} bytes")
    return struct.unpack(f"<{count}Q", body)


async def _copy(memory: memoryview, offsets: Sequence[int], into: memoryview) -> None:
    """Fill `into` with the records of equal size that begin at `offsets`."""
    size = len(into) // max(1, len(offsets))
    if offsets and max(offsets) + size > len(memory):
        raise TransferError(f"a record at {max(offsets)} is not within {len(memory)} bytes")
    since_others_ran = 0
    for start, offset in zip(range(0, len(into), max(1, size)), offsets, strict=True):
        for at in range(0, size, FRAME_BYTES):
            stop = min(at + FRAME_BYTES, size)
            into[start + at : start + stop] = memory[offset + at : offset + stop]
            since_others_ran += stop - at
            if since_others_ran >= FRAME_BYTES:
                since_others_ran = 0
                await asyncio.sleep(0)


async def _fill(target: memoryview, source: Source, request: Request) -> None:
    step = max(1, FRAME_BYTES // source.record_bytes)
    stop, at = request.first + request.count, 0
    for first in range(request.first, stop, step):
        for part in source.read(first, min(step, stop - first)):
            target[at : at + len(part)] = part
            at += len(part)
        await asyncio.sleep(0)  # others have their turn


def _require_same_user(sock: socket.socket) -> None:
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    _pid, uid, _gid = _PEER_CREDENTIALS.unpack(credentials)
    if uid != os.getuid():
        raise TransferError(f"the other side runs as user {uid}, this one as {os.getuid()}")


def _is_dead(path: Path) -> bool:
    """Whether nobody listens on a socket any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False  # of another type, as a living one is
    return False
