"""Records over TCP: the server sends them from where they lie, the client receives them in place.

REQUEST  transfer id, first, count  --->
                                    <---  RECORDS  up to 4 MiB, until all are sent
"""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import urlsplit

from shepherd_worker.engine.embedded.transfer.connection import Connection, deadline_s
from shepherd_worker.engine.embedded.transfer.errors import TransferError
from shepherd_worker.engine.embedded.transfer.frames import FRAME_BYTES, Header, Kind, Request
from shepherd_worker.engine.embedded.transfer.handshake import demand_proof, prove_to_server
from shepherd_worker.engine.embedded.transfer.server import TransferServer

TCP_SCHEME = "tcp"


def bind_tcp(host: str) -> tuple[socket.socket, str]:
    """A socket on a port of the system's choice, and what clients connect to.

    Raises:
        OSError: `host` is not an address of this machine.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    port = listener.getsockname()[1]
    return (
        listener,
        f"{TCP_SCHEME}://[{host}]:{port}" if ":" in host else f"{TCP_SCHEME}://{host}:{port}",
    )


async def connect_tcp(address: str, *, secret: bytes | None, timeout_s: float) -> Connection:
    """A connection to a worker, with proof of the secret where there is one."""
    where = urlsplit(address)
    try:
        host, port = where.hostname or "", where.port or 0
    except ValueError as error:
        raise TransferError(f"not an address: {error}") from error
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout_s):
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, target = found[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, target)
        except BaseException:
            sock.close()
            raise
    connection = Connection(sock, timeout_s=timeout_s)
    try:
        if secret is not None:
            await prove_to_server(connection, secret)
    except BaseException:
        connection.close()
        raise
    return connection


class TcpAdmission:
    """Lets in who knows the secret; everyone where there is none."""

    def __init__(self, secret: bytes | None) -> None:
        self._secret = secret

    async def __call__(self, _: socket.socket, connection: Connection) -> None:
        """See `TransferServer.listen`."""
        if self._secret is not None:
            await demand_proof(connection, self._secret)


async def serve_request(
    server: TransferServer, connection: Connection, header: Header, body: bytes
) -> None:
    """Answer REQUEST."""
    async with server.claimed(header, body) as (source, request):
        step = max(1, FRAME_BYTES // source.record_bytes)
        stop = request.first + request.count
        for first in range(request.first, stop, step):
            records = source.read(first, min(step, stop - first))
            await connection.send(Kind.RECORDS, source.fingerprint, records)
            await asyncio.sleep(0)  # others have their turn, though this socket takes more


class TcpTransport:
    """A `Transport`; see the module's docstring."""

    name = TCP_SCHEME

    def __init__(self, *, secret: bytes | None, timeout_s: float) -> None:
        self._secret = secret
        self._timeout_s = timeout_s

    def reaches(self, address: str) -> bool:
        """See `Transport.reaches`."""
        return address.startswith(f"{TCP_SCHEME}://")

    async def fetch(
        self, address: str, fingerprint: bytes, request: Request, into: memoryview
    ) -> None:
        """See `Transport.fetch`."""
        async with asyncio.timeout(deadline_s(len(into), self._timeout_s)):
            connection = await connect_tcp(address, secret=self._secret, timeout_s=self._timeout_s)
            try:
                await connection.send(Kind.REQUEST, fingerprint, [request.encode()])
                await _receive_records(connection, fingerprint, request.count, into)
            finally:
                connection.close()

    async def close(self) -> None:
        """See `Transport.close`."""


async def _receive_records(
    connection: Connection, fingerprint: bytes, count: int, into: memoryview
) -> None:
    record_bytes = len(into) // max(1, count)
    step = max(1, FRAME_BYTES // max(1, record_bytes)) * record_bytes
    for start in range(0, len(into), step):
        await connection.receive_into(Kind.RECORDS, fingerprint, into[start : start + step])
        await asyncio.sleep(0)  # others have their turn, though more has arrived
