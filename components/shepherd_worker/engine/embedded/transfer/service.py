"""Leasing records to other workers and fetching theirs, for whoever has an event loop.

Everything that moves bytes runs in a thread of its own; `lease` and `fetch` are
called from the owner's loop.  Listens on TCP, on a Unix socket, or both; `auto`
offers and tries every way that there is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from shepherd_config.addresses import is_loopback, is_wildcard
from shepherd_worker.engine.embedded.model.shared_memory import SharedMemory
from shepherd_worker.engine.embedded.transfer.client import TransferClient, Transport
from shepherd_worker.engine.embedded.transfer.frames import Kind
from shepherd_worker.engine.embedded.transfer.handshake import read_secret
from shepherd_worker.engine.embedded.transfer.leases import ByteSource, Leases, Source
from shepherd_worker.engine.embedded.transfer.loop_thread import LoopThread
from shepherd_worker.engine.embedded.transfer.nixl import (
    NIXL_SCHEME,
    NixlAgent,
    NixlServer,
    NixlTransport,
    is_nixl_installed,
    make_agent,
)
from shepherd_worker.engine.embedded.transfer.server import MAX_CONNECTIONS, Handler, TransferServer
from shepherd_worker.engine.embedded.transfer.shm import (
    ShmServer,
    ShmTransport,
    bind_unix,
    socket_directory,
)
from shepherd_worker.engine.embedded.transfer.staging import Staging
from shepherd_worker.engine.embedded.transfer.tcp import (
    TCP_SCHEME,
    TcpAdmission,
    TcpTransport,
    bind_tcp,
    serve_request,
)
from shepherd_worker.engine.protocol import EngineConfig, Ticket
from shepherd_worker.errors import UnreachableError, UnusableInputError

log = logging.getLogger(__name__)

FRAME_TIMEOUT_S = 5.0
"""How long either side waits for the other's next frame."""
TransferMode = Literal["auto", "shm", "tcp", "nixl"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferOptions:
    """How a worker takes part."""

    mode: TransferMode = "auto"
    host: str = "127.0.0.1"
    """Address of the TCP listener, as others reach it."""
    secret: bytes | None = None
    """What both sides must know; without one only loopback is listened on."""
    lease_s: float = 60.0
    timeout_s: float = FRAME_TIMEOUT_S
    max_connections: int = MAX_CONNECTIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferStats:
    """Totals count from the start."""

    leases: int = 0
    leases_expired_total: int = 0
    broken_off_total: int = 0
    """Leases that were claimed and not handed over."""
    bytes_sent_total: int = 0
    bytes_received_total: int = 0
    fetched_total: Mapping[str, int] = field(default_factory=dict)
    """Transfers that came through, by transport."""
    faults_total: Mapping[str, int] = field(default_factory=dict)
    """Attempts that did not, by transport; another transport may have come through."""
    failures_total: int = 0
    """Tickets whose records could not be had in any way."""


def transfer_options(config: EngineConfig, *, timeout_s: float) -> TransferOptions:
    """What an engine's configuration says.

    Raises:
        UnusableInputError: the secret's file cannot be used.
    """
    path = config.transfer_secret_file
    return TransferOptions(
        mode=config.kv_transfer,
        host=config.transfer_host,
        secret=read_secret(Path(path).expanduser()) if path else None,
        lease_s=config.transfer_lease_s,
        timeout_s=timeout_s,
    )


class TransferService:
    """See the module's docstring."""

    def __init__(self, options: TransferOptions, *, released: Callable[[], None]) -> None:
        """`released` is called after a lease has ended, in any thread."""
        self._options = options
        self._released = released
        self._leases = Leases()
        self._addresses: tuple[str, ...] = ()
        self._socket: Path | None = None
        self._thread: LoopThread | None = None
        self._server = TransferServer(
            self._leases,
            timeout_s=options.timeout_s,
            max_connections=options.max_connections,
        )
        self._staging = Staging()
        self._agent: NixlAgent | None = None
        self._nixl: NixlServer | None = None
        self._client = TransferClient(self._staging)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where records of this worker can be fetched, the fastest way first."""
        return self._addresses

    @property
    def bytes_staged(self) -> int:
        """Memory of fetched records that somebody still sees."""
        return self._staging.bytes_lent

    async def start(self, region: SharedMemory | None = None) -> None:
        """Listen; `region` is where most records lie, if they lie in shared memory.

        Raises:
            UnusableInputError: the host cannot be listened on, or not without a secret.
            UnreachableError: NIXL was asked for and is not there.
        """
        self._thread = LoopThread("shepherd-transfer")
        self._thread.start()
        await self._thread.run(self._listen(region))

    def lease(self, source: Source, release: Callable[[], None]) -> Ticket:
        """Offer records until they are fetched or the lease expires; then `release`, in any thread."""

        def end() -> None:
            release()
            self._released()

        transfer_id = self._leases.offer(source, end)
        assert self._thread is not None
        self._thread.call_later(self._options.lease_s, self._expire, transfer_id)
        in_region = source.offsets(0, 0) is not None
        return Ticket(
            addresses=tuple(
                a for a in self._addresses if in_region or not a.startswith(NIXL_SCHEME)
            ),
            transfer_id=transfer_id.hex(),
            fingerprint=source.fingerprint.hex(),
            record_bytes=source.record_bytes,
            num_records=source.num_records,
        )

    def lease_bytes(self, buffers: Sequence[bytes | memoryview], fingerprint: bytes) -> Ticket:
        """Offer any bytes, which must not change; 32 bytes of `fingerprint` say what they mean."""
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        return self.lease(ByteSource(fingerprint, views), lambda: None)

    async def fetch(
        self, ticket: Ticket, first: int, count: int, *, fingerprint: bytes, record_bytes: int
    ) -> list[memoryview] | None:
        """Records [first, first + count) of a ticket, whose lease ends thereby.

        None when they cannot be had, or are not of this fingerprint and size: that is
        logged, and counted unless none were wanted.
        """
        if (ticket.fingerprint, ticket.record_bytes) != (fingerprint.hex(), record_bytes):
            self._client.give_up(count, "they are of another kind or model")
            return None
        fetched = await self._run_fetch(ticket, first, count)
        if fetched is None:
            return None
        stop = count * record_bytes
        return [fetched[at : at + record_bytes] for at in range(0, stop, record_bytes)]

    async def fetch_bytes(
        self, ticket: Ticket, *, fingerprint: bytes, max_bytes: int
    ) -> memoryview | None:
        """What `lease_bytes` offered, in one buffer; None as `fetch`, or when it is too long."""
        if (ticket.fingerprint, ticket.record_bytes) != (fingerprint.hex(), 1):
            self._client.give_up(1, "they are of another kind")
            return None
        if not 0 <= ticket.num_records <= max_bytes:
            self._client.give_up(1, f"{ticket.num_records} bytes are more than {max_bytes}")
            return None
        return await self._run_fetch(ticket, 0, ticket.num_records)

    def stats(self) -> TransferStats:
        """Where the service stands; from any thread."""
        return TransferStats(
            leases=len(self._leases),
            leases_expired_total=self._leases.expired_total,
            broken_off_total=self._server.broken_off_total,
            bytes_sent_total=self._server.bytes_sent_total,
            bytes_received_total=self._client.bytes_received_total,
            fetched_total=dict(self._client.fetched_total),
            faults_total=dict(self._client.faults_total),
            failures_total=self._client.failures_total,
        )

    async def close(self) -> None:
        """Break off every transfer and release every lease; without effect before the start."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await thread.run(self._server.close())
            await thread.run(self._client.close())
            await thread.stop()
        if self._nixl is not None:
            self._nixl.close()
            self._nixl = None
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)
        self._leases.end_all()

    async def _run_fetch(self, ticket: Ticket, first: int, count: int) -> memoryview | None:
        if self._thread is None:
            self._client.give_up(count, "the service is closed")
            return None
        try:
            return await self._thread.run(self._client.fetch(ticket, first, count))
        except ConnectionAbortedError:
            self._client.give_up(count, "the service was closed")
            return None

    def _expire(self, transfer_id: bytes) -> None:
        if self._leases.expire(transfer_id):
            log.warning("records were not fetched in %.0f s", self._options.lease_s)

    async def _listen(self, region: SharedMemory | None) -> None:
        mode, ways = self._options.mode, list[str]()
        self._agent = _agent(self._options)
        self._client.use(_transports(self._options, self._agent))
        if mode in {"auto", "shm"}:
            ways.append(self._listen_unix(region))
        if mode != "shm":
            ways += self._listen_tcp(region)
        self._addresses = tuple(address for address in ways if address)

    def _listen_unix(self, region: SharedMemory | None) -> str:
        shm = ShmServer(region)
        try:
            listener, self._socket, address = bind_unix(socket_directory())
        except OSError as error:
            if self._options.mode == "shm":
                raise UnusableInputError(f"--kv-transfer shm is not possible: {error}") from error
            log.warning("no shared memory for KV, other ways remain: %s", error)
            return ""
        handlers = {Kind.ATTACH: shm.serve_attach, Kind.CLAIM: shm.serve_claim}
        self._server.listen(listener, handlers, shm.admit)
        return address

    def _listen_tcp(self, region: SharedMemory | None) -> list[str]:
        host, secret = self._options.host, self._options.secret
        if secret is None and not is_loopback(host):
            raise UnusableInputError(
                f"--transfer-host {host!r} is not loopback: whoever reaches it needs a credential, "
                "give both sides one with --transfer-secret-file"
            )
        if is_wildcard(host):
            raise UnusableInputError(
                f"--transfer-host {host!r} is no address that decode workers could fetch from: "
                "name one of this machine's"
            )
        try:
            listener, address = bind_tcp(host)
        except OSError as error:
            raise UnusableInputError(
                f"--transfer-host {host!r} cannot be listened on: {error}"
            ) from error
        ways = [address]
        handlers: dict[Kind, Handler] = {Kind.REQUEST: serve_request}
        if self._agent is not None and region is not None:
            self._nixl = NixlServer(self._agent, region)
            handlers[Kind.REMOTE_CLAIM] = self._nixl.serve_claim
            ways.insert(0, address.replace(TCP_SCHEME, NIXL_SCHEME, 1))
        self._server.listen(listener, handlers, TcpAdmission(secret))
        return ways


def _agent(options: TransferOptions) -> NixlAgent | None:
    """UCX opens ports of its own on every interface: on loopback only where it was asked for."""
    if options.mode == "nixl":
        return make_agent()
    if options.mode != "auto" or is_loopback(options.host) or not is_nixl_installed():
        return None
    try:
        return make_agent()
    except UnreachableError as error:
        log.warning("other ways than NIXL remain: %s", error)
        return None


def _transports(options: TransferOptions, agent: NixlAgent | None) -> list[Transport]:
    transports: list[Transport] = []
    if options.mode in {"auto", "shm"}:
        transports.append(ShmTransport(timeout_s=options.timeout_s))
    if agent is not None:
        transports.append(NixlTransport(agent, secret=options.secret, timeout_s=options.timeout_s))
    if options.mode != "shm":
        transports.append(TcpTransport(secret=options.secret, timeout_s=options.timeout_s))
    return transports
