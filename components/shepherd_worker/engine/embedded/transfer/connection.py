"""Frames over one stream socket, without blocking and without copies.

Bodies are sent from where they lie (`sendmsg`) and received where they belong
(`recv_into`).  Every frame must be through within `timeout_s`, however slowly it
drips.  A Unix socket may carry one file descriptor beside a frame; those that
nobody takes are closed with the connection.
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections.abc import Callable, Sequence

from shepherd_worker.engine.embedded.transfer.errors import TransferError
from shepherd_worker.engine.embedded.transfer.frames import (
    HEADER_BYTES,
    MAX_CONTROL_BYTES,
    Header,
    Kind,
    encode_header,
)

_MAX_BUFFERS = 1000
"""What one `sendmsg` may gather; the system's limit is 1024."""
MAX_REASON = 200
"""Characters of a refusal that are passed on."""
_WAKE_BYTES = 1 << 18
"""Waking up for every packet costs more than moving it."""
_FD_BYTES = array.array("i").itemsize
MIN_BYTES_PER_S = 4 << 20
"""Over a whole transfer; a slower one is given up, computing is faster."""
NO_FINGERPRINT = bytes(32)
"""Of frames that are about no records."""


class Connection:
    """See the module's docstring; belongs to the loop that runs when it is made."""

    def __init__(self, sock: socket.socket, *, timeout_s: float) -> None:
        """Owns `sock` from now on."""
        sock.setblocking(False)
        self._socket = sock
        self._carries_fds = sock.family == socket.AF_UNIX
        if not self._carries_fds:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._fds: list[int] = []
        self._wakes_at = 1

    async def send(
        self,
        kind: Kind,
        fingerprint: bytes = NO_FINGERPRINT,
        body: Sequence[bytes | memoryview] = (),
        *,
        fd: int | None = None,
    ) -> int:
        """Send one frame; its size."""
        header = encode_header(kind, fingerprint, body)
        parts = [memoryview(part) for part in (header, *body) if len(part)]
        async with asyncio.timeout(self._timeout_s):
            if fd is not None:
                parts = _advance(parts, self._send_with_fd(parts, fd))
            while parts:
                try:
                    parts = _advance(parts, self._socket.sendmsg(parts[:_MAX_BUFFERS]))
                except BlockingIOError:
                    await self._ready(self._loop.add_writer, self._loop.remove_writer)
        return HEADER_BYTES + sum(len(part) for part in body)

    async def receive(
        self, kinds: set[Kind], fingerprint: bytes | None, *, num_bytes: int | None = None
    ) -> tuple[Header, bytes]:
        """The next frame, which must be of these kinds, fingerprint and size, where they are given.

        Raises:
            TransferError: it is another one, REFUSED or damaged.
            EOFError: the other side has gone.
            TimeoutError: it did not come in time.
        """
        async with asyncio.timeout(self._timeout_s):
            header = await self._receive_header(kinds, fingerprint)
            body = await self._receive_control(header)
        if num_bytes is not None and header.num_bytes != num_bytes:
            raise TransferError(f"expected a frame of {num_bytes} bytes, got {header.num_bytes}")
        return header, body

    async def receive_into(self, kind: Kind, fingerprint: bytes, target: memoryview) -> None:
        """The body of the next frame, which must fill `target`; raises as `receive`."""
        async with asyncio.timeout(self._timeout_s):
            header = await self._receive_header({kind}, fingerprint)
            if header.num_bytes != len(target):
                raise TransferError(
                    f"expected a frame of {len(target)} bytes, got {header.num_bytes}"
                )
            checksum = header.checksum_of_body()
            await self._receive_exactly(target, checksum.update)
        checksum.check()

    async def closed(self) -> None:
        """Return when the other side has gone."""
        while True:
            try:
                if not self._socket.recv(1):
                    return
            except BlockingIOError:
                self._wake_at(1)
                await self._ready(self._loop.add_reader, self._loop.remove_reader)
            except OSError:
                return

    def take_fd(self) -> int:
        """The descriptor that came with the last frame; the caller closes it.

        Raises:
            TransferError: none did.
        """
        if not self._fds:
            raise TransferError("expected a descriptor beside the frame, got none")
        return self._fds.pop(0)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
        while self._fds:
            os.close(self._fds.pop())

    async def _receive_header(self, kinds: set[Kind], fingerprint: bytes | None) -> Header:
        buffer = bytearray(HEADER_BYTES)
        await self._receive_exactly(memoryview(buffer))
        header = Header.decode(memoryview(buffer))
        if header.kind is Kind.REFUSED:
            reason = (await self._receive_control(header)).decode(errors="replace")
            raise TransferError(f"the other side refuses: {reason[:MAX_REASON]}")
        if header.kind not in kinds:
            wanted = " or ".join(sorted(kind.name for kind in kinds))
            raise TransferError(f"expected a frame {wanted}, got {header.kind.name}")
        if fingerprint is not None and header.fingerprint != fingerprint:
            raise TransferError("the other side has records of another kind or model")
        return header

    async def _receive_control(self, header: Header) -> bytes:
        if header.num_bytes > MAX_CONTROL_BYTES:
            raise TransferError(f"a frame of {header.num_bytes} bytes is too long")
        body = bytearray(header.num_bytes)
        checksum = header.checksum_of_body()
        await self._receive_exactly(memoryview(body), checksum.update)
        checksum.check()
        return bytes(body)

    async def _receive_exactly(
        self, target: memoryview, seen: Callable[[memoryview], None] | None = None
    ) -> None:
        """Fill `target`; `seen` is told of every part while it is still in the processor's cache."""
        while len(target):
            try:
                received = self._receive_some(target)
            except BlockingIOError:
                self._wake_at(min(len(target), _WAKE_BYTES))
                await self._ready(self._loop.add_reader, self._loop.remove_reader)
                continue
            if received == 0:
                raise EOFError("the other side has hung up")
            if seen is not None:
                seen(target[:received])
            target = target[received:]

    def _wake_at(self, num_bytes: int) -> None:
        """Sleep until so many bytes are there, or the other side has gone."""
        if num_bytes != self._wakes_at:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, num_bytes)
            self._wakes_at = num_bytes

    def _receive_some(self, target: memoryview) -> int:
        if not self._carries_fds:
            return self._socket.recv_into(target)
        received, ancillary, _, _ = self._socket.recvmsg_into(
            [target], socket.CMSG_SPACE(_FD_BYTES), socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._fds += array.array("i", data[: len(data) - len(data) % _FD_BYTES])
        return received

    def _send_with_fd(self, parts: list[memoryview], fd: int) -> int:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
        return self._socket.sendmsg(parts[:_MAX_BUFFERS], [rights])

    async def _ready(self, watch: Callable[..., object], unwatch: Callable[[int], object]) -> None:
        descriptor, ready = self._socket.fileno(), self._loop.create_future()
        watch(descriptor, _wake, ready)
        try:
            await ready
        finally:
            unwatch(descriptor)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _advance(parts: list[memoryview], sent: int) -> list[memoryview]:
    """What is left of `parts` when their first `sent` bytes are gone."""
    index = 0
    while index < len(parts) and sent >= len(parts[index]):
        sent -= len(parts[index])
        index += 1
    left = parts[index:]
    if sent:
        left[0] = left[0][sent:]
    return left


def deadline_s(num_bytes: int, timeout_s: float) -> float:
    """How long a whole transfer may take when each of its frames may take `timeout_s`."""
    return 2 * timeout_s + num_bytes / MIN_BYTES_PER_S
