"""Records through NIXL: the client's network card reads them out of the server's memory.

    REMOTE_CLAIM  --->  REMOTE_EXTENTS: the server's agent, and where each record lies
    read
    DONE          --->  RELEASED: the lease held until now, and a checksum of the records

The conversation is over the TCP listener and subject to its handshake; the bytes
go whatever way NIXL's UCX backend finds, InfiniBand or TCP, from ports that UCX
opens by itself.  Only records in host memory are offered.  The package is imported
when an agent is made, never before.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib.util
import logging
import secrets
import struct
from collections.abc import Sequence
from typing import Any, Protocol

import xxhash

from shepherd_worker.engine.embedded.model.shared_memory import SharedMemory
from shepherd_worker.engine.embedded.transfer.connection import Connection, deadline_s
from shepherd_worker.engine.embedded.transfer.errors import TransferError
from shepherd_worker.engine.embedded.transfer.frames import Header, Kind, Request
from shepherd_worker.engine.embedded.transfer.server import TransferServer
from shepherd_worker.engine.embedded.transfer.tcp import TCP_SCHEME, connect_tcp
from shepherd_worker.errors import UnreachableError

log = logging.getLogger(__name__)

NIXL_SCHEME = "nixl"
NIXL_IS_MISSING = "--kv-transfer nixl needs the package nixl: pip install 'shepherd-worker[nixl]'"
_PACKAGES = ("nixl", "nixl_cu13", "nixl_cu12")
_POLL_S = 0.0002
_LENGTH = struct.Struct("<I")
_DIGEST_BYTES = 8


class NixlAgent(Protocol):
    """What is used of `nixl_agent`; Source: NIXL 1.5, `_api.py`."""

    def register_memory(self, reg_list: object, mem_type: str) -> Any:
        """Let the network card read or write [(address, bytes, device, "")]."""
        ...

    def deregister_memory(self, dereg_list: Any) -> None:
        """The opposite."""
        ...

    def get_agent_metadata(self) -> bytes:
        """What another agent needs in order to read the registered memory."""
        ...

    def add_remote_agent(self, metadata: bytes) -> str | bytes:
        """Know another agent; its name."""
        ...

    def remove_remote_agent(self, agent: str | bytes) -> None:
        """Forget it."""
        ...

    def get_xfer_descs(self, descs: object, mem_type: str) -> Any:
        """[(address, bytes, device)] as a list of descriptors."""
        ...

    def initialize_xfer(
        self, operation: str, local_descs: Any, remote_descs: Any, remote_agent: str | bytes
    ) -> Any:
        """Prepare a transfer."""
        ...

    def transfer(self, handle: Any) -> str:
        """Begin it: DONE, PROC or ERR."""
        ...

    def check_xfer_state(self, handle: Any) -> str:
        """How far it is: DONE, PROC or ERR."""
        ...

    def release_xfer_handle(self, handle: Any) -> None:
        """Forget it; raises while it cannot be cancelled."""
        ...


def is_nixl_installed() -> bool:
    """Whether `make_agent` may work; imports nothing."""
    return any(importlib.util.find_spec(package) is not None for package in _PACKAGES)


def make_agent() -> NixlAgent:
    """An agent of this process.

    Raises:
        UnreachableError: NIXL is not installed or does not work here.
    """
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is None:
            continue
        try:
            module = importlib.import_module(f"{package}._api")
            agent: NixlAgent = module.nixl_agent(f"shepherd-{secrets.token_hex(8)}")
        except Exception as error:
            raise UnreachableError(
                f"--kv-transfer nixl: {package} does not work: {error!r}"
            ) from error
        return agent
    raise UnreachableError(NIXL_IS_MISSING)


class NixlServer:
    """The server's part: its region may be read by whoever has its agent's metadata."""

    def __init__(self, agent: NixlAgent, region: SharedMemory) -> None:
        self._agent = agent
        self._memory = memoryview(region.memory)
        self._address = _address_of(self._memory)
        self._registered = agent.register_memory(
            [(self._address, len(self._memory), 0, "")], "DRAM"
        )
        self._metadata = agent.get_agent_metadata()
        """Taken once: later ones would name the buffers of passing transfers too."""

    async def serve_claim(
        self, server: TransferServer, connection: Connection, header: Header, body: bytes
    ) -> None:
        """Answer REMOTE_CLAIM."""
        async with server.claimed(header, body) as (source, request):
            offsets = source.offsets(request.first, request.count)
            if offsets is None:
                raise TransferError("these records do not lie in registered memory")
            extents = _pack(self._metadata, [self._address + o for o in offsets])
            await connection.send(Kind.REMOTE_EXTENTS, source.fingerprint, [extents])
            records = [self._memory[at : at + source.record_bytes] for at in offsets]
            digest = await _digest(records)
            await connection.receive({Kind.DONE}, source.fingerprint, num_bytes=0)
        await connection.send(Kind.RELEASED, header.fingerprint, [digest])

    def close(self) -> None:
        """Let nobody read any more."""
        self._agent.deregister_memory(self._registered)


class NixlTransport:
    """A `Transport`; see the module's docstring."""

    name = NIXL_SCHEME

    def __init__(self, agent: NixlAgent, *, secret: bytes | None, timeout_s: float) -> None:
        self._agent = agent
        self._secret = secret
        self._timeout_s = timeout_s
        self._remotes: dict[bytes, str | bytes] = {}
        self._abandoned: list[memoryview] = []
        """Buffers that the network card may still write to; they are never used again."""

    def reaches(self, address: str) -> bool:
        """See `Transport.reaches`."""
        return address.startswith(f"{NIXL_SCHEME}://")

    async def fetch(
        self, address: str, fingerprint: bytes, request: Request, into: memoryview
    ) -> None:
        """See `Transport.fetch`."""
        where = address.replace(NIXL_SCHEME, TCP_SCHEME, 1)
        async with asyncio.timeout(deadline_s(len(into), self._timeout_s)):
            connection = await connect_tcp(where, secret=self._secret, timeout_s=self._timeout_s)
            try:
                await connection.send(Kind.REMOTE_CLAIM, fingerprint, [request.encode()])
                _, body = await connection.receive({Kind.REMOTE_EXTENTS}, fingerprint)
                metadata, addresses = _unpack(body, request.count)
                if addresses:
                    await self._read(metadata, addresses, into)
                await connection.send(Kind.DONE, fingerprint)
                _, digest = await connection.receive(
                    {Kind.RELEASED}, fingerprint, num_bytes=_DIGEST_BYTES
                )
            finally:
                connection.close()
            if await _digest([into]) != digest:
                raise TransferError("the checksum of the records is wrong")

    async def close(self) -> None:
        """See `Transport.close`."""
        for remote in self._remotes.values():
            self._agent.remove_remote_agent(remote)
        self._remotes.clear()

    async def _read(self, metadata: bytes, addresses: Sequence[int], into: memoryview) -> None:
        size = len(into) // len(addresses)
        begin = _address_of(into)
        registered = self._agent.register_memory([(begin, len(into), 0, "")], "DRAM")
        try:
            local = [(begin + i * size, size, 0) for i in range(len(addresses))]
            remote = [(address, size, 0) for address in addresses]
            await self._run(metadata, local, remote, into)
        except Exception as error:  # the bindings' errors have no root of their own
            self._forget(metadata)
            raise TransferError(f"NIXL failed: {error!r}") from error
        finally:
            self._agent.deregister_memory(registered)

    async def _run(
        self,
        metadata: bytes,
        local: list[tuple[int, int, int]],
        remote: list[tuple[int, int, int]],
        into: memoryview,
    ) -> None:
        agent = self._agent
        if metadata not in self._remotes:
            self._remotes[metadata] = agent.add_remote_agent(metadata)
        handle = agent.initialize_xfer(
            "READ",
            agent.get_xfer_descs(local, "DRAM"),
            agent.get_xfer_descs(remote, "DRAM"),
            self._remotes[metadata],
        )
        try:
            state = agent.transfer(handle)
            while state == "PROC":
                await asyncio.sleep(_POLL_S)
                state = agent.check_xfer_state(handle)
        finally:
            try:
                agent.release_xfer_handle(handle)
            except Exception:
                self._abandoned.append(into)
                log.exception("a transfer cannot be cancelled, its buffer is not used again")
        if state != "DONE":
            raise RuntimeError(f"the transfer ended as {state}")

    def _forget(self, metadata: bytes) -> None:
        remote = self._remotes.pop(metadata, None)
        if remote is not None:
            self._agent.remove_remote_agent(remote)


def _address_of(memory: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _pack(metadata: bytes, addresses: Sequence[int]) -> bytes:
    return b"".join(
        (_LENGTH.pack(len(metadata)), metadata, struct.pack(f"<{len(addresses)}Q", *addresses))
    )


def _unpack(body: bytes, count: int) -> tuple[bytes, Sequence[int]]:
    length = _LENGTH.unpack_from(body)[0] if len(body) >= _LENGTH.size else 0
    stop = _LENGTH.size + length
    if len(body) != stop + 8 * count:
        raise TransferError(f"expected {count} addresses, got {len(body)} bytes")
    return body[_LENGTH.size : stop], struct.unpack(f"<{count}Q", body[stop:])


async def _digest(records: Sequence[memoryview]) -> bytes:
    digest = xxhash.xxh3_64()
    for record in records:
        digest.update(record)
        await asyncio.sleep(0)  # others have their turn
    return digest.digest()
