"""The side that has records: listens, and hands leased ones to whoever knows their id.

    TCP          [handshake]  REQUEST -> RECORDS...
                              REMOTE_CLAIM -> REMOTE_EXTENTS, DONE -> RELEASED
    Unix socket  ATTACH -> REGION, then open until one side goes
                 CLAIM -> EXTENTS or COPY, DONE -> RELEASED

A request claims its lease, right or wrong, and the lease ends with the
connection, however that ends.  Every frame has a deadline, and so has the whole:
a client that does not keep up is given up.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from shepherd_worker.engine.embedded.transfer.connection import Connection, deadline_s
from shepherd_worker.engine.embedded.transfer.errors import FAULTS, TransferError
from shepherd_worker.engine.embedded.transfer.frames import Header, Kind, Request
from shepherd_worker.engine.embedded.transfer.leases import Leases, Source

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 512
"""One more is closed at once."""
_BACKLOG = 128
_PAUSE_S = 0.1
"""After the system had no descriptor for another connection."""

Handler = Callable[["TransferServer", Connection, Header, bytes], Awaitable[None]]
"""Answers a first frame."""


class TransferServer:
    """See the module's docstring; belongs to one event loop, its counters to everyone."""

    def __init__(
        self, leases: Leases, *, timeout_s: float, max_connections: int = MAX_CONNECTIONS
    ) -> None:
        """`timeout_s` is how long a client may take for one frame."""
        self.bytes_sent_total = 0
        self.broken_off_total = 0
        """Leases that were claimed and not handed over."""
        self.timeout_s = timeout_s
        self._leases = leases
        self._max_connections = max_connections
        self._listeners: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._serving: set[asyncio.Task[None]] = set()

    def listen(
        self,
        listener: socket.socket,
        handlers: Mapping[Kind, Handler],
        admit: Callable[[socket.socket, Connection], Awaitable[None]],
    ) -> None:
        """Serve everyone who connects to a bound socket, which is owned from now on.

        `admit` raises a `TransferError` for a stranger.
        """
        listener.setblocking(False)
        listener.listen(_BACKLOG)
        self._listeners.append(listener)
        accepting = asyncio.create_task(self._accept(listener, handlers, admit))
        self._accepting.append(accepting)

    @asynccontextmanager
    async def claimed(self, header: Header, body: bytes) -> AsyncIterator[tuple[Source, Request]]:
        """The records that a first frame asks for; their lease ends with the block.

        Raises:
            TransferError: there is no such lease, or it holds other records.
            TimeoutError: the block took too long for so many bytes.
        """
        request = Request.decode(body)
        lease = self._leases.claim(request.transfer_id)
        if lease is None:
            raise TransferError("there are no such records any more")
        source = lease.source
        try:
            _check(source, header, request)
            num_bytes = request.count * source.record_bytes
            async with asyncio.timeout(deadline_s(num_bytes, self.timeout_s)):
                yield source, request
            self.bytes_sent_total += num_bytes
        except BaseException:
            self.broken_off_total += 1
            raise
        finally:
            self._leases.end(request.transfer_id)

    async def close(self) -> None:
        """Stop listening and break off what is being handed over."""
        tasks = (*self._accepting, *self._serving)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listener in self._listeners:
            listener.close()
        self._accepting.clear()
        self._listeners.clear()

    async def _accept(
        self,
        listener: socket.socket,
        handlers: Mapping[Kind, Handler],
        admit: Callable[[socket.socket, Connection], Awaitable[None]],
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError as error:
                log.warning("no connection can be accepted: %s", error)
                await asyncio.sleep(_PAUSE_S)
                continue
            if len(self._serving) >= self._max_connections:
                log.warning("%d connections are open, one more is refused", len(self._serving))
                sock.close()
                continue
            task = asyncio.create_task(self._serve(sock, handlers, admit))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _serve(
        self,
        sock: socket.socket,
        handlers: Mapping[Kind, Handler],
        admit: Callable[[socket.socket, Connection], Awaitable[None]],
    ) -> None:
        connection = Connection(sock, timeout_s=self.timeout_s)
        try:
            await admit(sock, connection)
            header, body = await connection.receive(set(handlers), None)
            try:
                await handlers[header.kind](self, connection, header, body)
            except TransferError as error:
                await connection.send(Kind.REFUSED, body=[str(error).encode()])
                raise
        except FAULTS as error:
            log.warning("a connection came to nothing: %r", error)
        except Exception:
            log.exception("a connection came to nothing")
        finally:
            connection.close()


def _check(source: Source, header: Header, request: Request) -> None:
    if header.fingerprint != source.fingerprint:
        raise TransferError("the records are of another kind or model")
    if request.first + request.count > source.num_records:
        raise TransferError(f"the lease holds {source.num_records} records only")
