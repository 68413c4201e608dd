"""Blocks, services and raw connections, as tests of KV transfer need them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from shepherd_worker.engine.embedded.model.shared_memory import SharedMemory
from shepherd_worker.engine.embedded.transfer.blocks import BlockSource
from shepherd_worker.engine.embedded.transfer.frames import Kind, Request, encode_header
from shepherd_worker.engine.embedded.transfer.service import TransferOptions, TransferService
from shepherd_worker.engine.protocol import Ticket

FINGERPRINT = b"m" * 32
BLOCK_BYTES, NUM_BLOCKS = 300_000, 40


def record(block_id: int) -> bytes:
    return random.Random(block_id).randbytes(BLOCK_BYTES)


class Blocks:
    """Blocks that count how often they were let go."""

    def __init__(self) -> None:
        self.storage = SharedMemory.allocate(NUM_BLOCKS * BLOCK_BYTES, "test-kv")
        for block_id in range(NUM_BLOCKS):
            at = block_id * BLOCK_BYTES
            self.storage.memory[at : at + BLOCK_BYTES] = record(block_id)
        self.num_released = 0

    def source(self, *block_ids: int, shared: bool = True) -> BlockSource:
        storage = self.storage if shared else None
        return BlockSource(FINGERPRINT, BLOCK_BYTES, block_ids, storage, self.read)

    def read(self, block_ids: Any) -> list[bytes]:
        return [record(block_id) for block_id in block_ids]

    def release(self) -> None:
        self.num_released += 1


@asynccontextmanager
async def service(
    storage: SharedMemory | None = None, **options: Any
) -> AsyncIterator[TransferService]:
    made = TransferService(TransferOptions(**options), released=lambda: None)
    try:
        await made.start(storage)
        yield made
    finally:
        await made.close()


def only(ticket: Ticket, scheme: str) -> Ticket:
    return replace(ticket, addresses=tuple(a for a in ticket.addresses if a.startswith(scheme)))


async def fetch(client: TransferService, ticket: Ticket, first: int = 0, count: int = 0) -> Any:
    return await client.fetch(
        ticket,
        first,
        count or ticket.num_records - first,
        fingerprint=FINGERPRINT,
        record_bytes=BLOCK_BYTES,
    )


async def connect(server: TransferService) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = server.addresses[-1].removeprefix("tcp://").rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def request(
    server: TransferService, ticket: Ticket, count: int, fingerprint: bytes = FINGERPRINT
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """What a client begins with."""
    reader, writer = await connect(server)
    body = Request(bytes.fromhex(ticket.transfer_id), 0, count).encode()
    writer.write(encode_header(Kind.REQUEST, fingerprint, [body]) + body)
    return reader, writer


def frame(body: bytes, fingerprint: bytes = FINGERPRINT, kind: Kind = Kind.RECORDS) -> bytes:
    return encode_header(kind, fingerprint, [body]) + body


def socket_of(server: TransferService) -> Path:
    return Path("/" + server.addresses[0].removeprefix("shm://").partition("/")[2])


def exists(path: Path) -> bool:
    return path.exists()


def open_to_all(path: Path, mode: int) -> None:
    path.chmod(mode)
