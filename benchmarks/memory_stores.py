"""The stores that the memory's figures are taken on: SQLite here, PostgreSQL where one is named.

PostgreSQL needs a role without SUPERUSER that may make a schema, which is dropped afterwards:

    SHEPHERD_BENCH_POSTGRES=postgresql://role@localhost/database
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
from psycopg import sql

from shepherd_memory.archive.files import SqliteArchives
from shepherd_memory.archive.postgres import PostgresArchives
from shepherd_memory.archive.postgres_index import PostgresIndex
from shepherd_memory.archive.postgres_migrations import prepare
from shepherd_memory.archive.postgres_pool import PostgresOptions, PostgresPool
from shepherd_memory.archive.postgres_size import tables_of
from shepherd_memory.archive.protocol import Archives
from shepherd_memory.index_store import IndexStore
from shepherd_memory.stream_state import StreamState

_SCHEMA = "shepherd_benchmark"


@dataclass(frozen=True, slots=True)
class OpenStores:
    """What keeps turns and the streams' state, empty at first."""

    archives: Archives
    state: StreamState
    size_bytes: Callable[[], int]
    """On disk, indexes included."""


def stores() -> dict[str, Callable[[], AbstractContextManager[OpenStores]]]:
    """By name; PostgreSQL is left out, and said to be, where no server is named."""
    url = os.environ.get("SHEPHERD_BENCH_POSTGRES", "")
    if url:
        return {"SQLite": sqlite, "PostgreSQL": lambda: postgres(url)}
    print("  PostgreSQL left out: SHEPHERD_BENCH_POSTGRES names no server", flush=True)
    return {"SQLite": sqlite}


@contextmanager
def sqlite() -> Iterator[OpenStores]:
    """Files in a directory that is removed afterwards."""
    with TemporaryDirectory() as directory:
        archives = SqliteArchives(Path(directory) / "tenants")
        state = IndexStore(Path(directory) / "index.db")
        yield OpenStores(archives, state, lambda: archives.of("t").stats().size_bytes)
        state.close()
        archives.close()


@contextmanager
def postgres(url: str) -> Iterator[OpenStores]:
    """Tables in a schema that is dropped afterwards."""
    with postgres_pool(url) as (_, pool):
        state = PostgresIndex(pool, lambda _: None)
        yield OpenStores(PostgresArchives(pool), state, lambda: sum(tables_of(pool).values()))


@contextmanager
def postgres_pool(url: str) -> Iterator[tuple[PostgresOptions, PostgresPool]]:
    """Where the tables are, for whoever opens the archives differently."""
    options = PostgresOptions(url=url, schema=_SCHEMA, statement_timeout_s=600)
    _drop(url)
    prepare(options)
    pool = PostgresPool(options)
    try:
        yield options, pool
    finally:
        pool.close()
        _drop(url)


def _drop(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(
            sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(_SCHEMA))
        )
