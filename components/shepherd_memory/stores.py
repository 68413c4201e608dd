"""Opens what the options name to keep the archive in.

sqlite            one process: the data directory is locked
MODULE:FACTORY    the same, with somebody else's store in the place of SQLite's
postgresql        any number of processes: a lease says who follows the streams
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from shepherd_memory.archive.files import SqliteArchives
from shepherd_memory.archive.foreign import load_archives
from shepherd_memory.archive.protocol import Archives
from shepherd_memory.config import MemoryConfig
from shepherd_memory.data_lock import locked
from shepherd_memory.embedding.protocol import Embedder
from shepherd_memory.errors import StoreUnavailableError
from shepherd_memory.index_store import IndexStore
from shepherd_memory.replicas import Lease
from shepherd_memory.store_size import Sizes, files_in
from shepherd_memory.stream_state import StreamState
from shepherd_memory.writer import WriterThread

if TYPE_CHECKING:
    from shepherd_memory.archive.postgres_lease import PostgresLease
    from shepherd_memory.archive.postgres_pool import PostgresPool

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stores:
    """What keeps the turns, what keeps the streams' state, and who may change that."""

    archives: Archives
    state: StreamState
    lease: Lease | None
    """None where there is no other replica."""
    sizes: Sizes


@asynccontextmanager
async def opened(
    config: MemoryConfig, writer: WriterThread, embedder: Embedder | None = None
) -> AsyncIterator[Stores]:
    """The stores; SQLite's are opened, used and closed in the writer thread.

    A database that can is made to find the nearest of `embedder`'s vectors.

    Raises:
        OSError: the data directory cannot be used, or (`ConnectionError`) the database.
        DataDirectoryInUseError: another process serves the data directory.
        ArchiveAccessError: the database's role may do too little or too much.
        SchemaVersionError: a later version wrote the store.
    """
    async with AsyncExitStack() as stack:
        if config.uses_postgres:
            yield await _postgres(config, stack, embedder)
            return
        directory = config.data_path
        stack.enter_context(locked(directory))
        archives = await writer.run(lambda: _in_files(config))
        stack.push_async_callback(writer.run, archives.close)
        state = await writer.run(lambda: IndexStore(directory / "index.db"))
        stack.push_async_callback(writer.run, state.close)
        yield Stores(archives, state, None, partial(files_in, directory))


def _in_files(config: MemoryConfig) -> Archives:
    directory = config.data_path / "tenants"
    if not config.uses_foreign:
        return SqliteArchives(directory)
    directory.mkdir(mode=0o700, exist_ok=True)
    return load_archives(config.archive)(directory)


async def _postgres(
    config: MemoryConfig, stack: AsyncExitStack, embedder: Embedder | None
) -> Stores:
    from shepherd_memory.archive.postgres_index import PostgresIndex  # noqa: PLC0415 - an extra
    from shepherd_memory.archive.postgres_lease import PostgresLease  # noqa: PLC0415 - an extra
    from shepherd_memory.archive.postgres_migrations import prepare  # noqa: PLC0415 - an extra
    from shepherd_memory.archive.postgres_pool import PostgresPool  # noqa: PLC0415 - an extra
    from shepherd_memory.archive.postgres_size import tables_of  # noqa: PLC0415 - an extra

    options = config.postgres()
    # Its driver and pool log every transaction and every attempt; what matters is told by ours.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    try:
        await asyncio.to_thread(prepare, options, config.postgres_owner())
    except StoreUnavailableError as error:
        raise ConnectionError(str(error)) from error
    pool = PostgresPool(options)
    stack.push_async_callback(asyncio.to_thread, pool.close)
    holder = f"{socket.gethostname()} {os.getpid()}"
    lease = PostgresLease(pool, holder=holder, ttl_s=config.archive_lease_s)
    archives = await asyncio.to_thread(_postgres_archives, config, pool, lease, embedder)
    return Stores(archives, PostgresIndex(pool, lease.fence), lease, partial(tables_of, pool))


def _postgres_archives(
    config: MemoryConfig, pool: PostgresPool, lease: PostgresLease, embedder: Embedder | None
) -> Archives:
    """With pgvector, where the database has it and there is a model."""
    from shepherd_memory.archive.postgres import PostgresArchives  # noqa: PLC0415 - an extra
    from shepherd_memory.archive.postgres_nearness import (  # noqa: PLC0415 - an extra
        index_vectors,
        prepare_nearness,
    )

    if embedder is None:
        return PostgresArchives(pool, fence=lease.fence)
    owner = config.postgres_owner() or config.postgres()
    try:
        nearness = prepare_nearness(owner, embedder.name, embedder.dimensions)
        archives = PostgresArchives(pool, fence=lease.fence, nearness=nearness)
        filled = archives.fill_nearness()
        if nearness is not None and index_vectors(owner, nearness):
            log.info("pgvector finds the nearest vectors; %d were put again for it", filled)
            return archives
    except StoreUnavailableError as error:
        raise ConnectionError(str(error)) from error
    return PostgresArchives(pool, fence=lease.fence)
