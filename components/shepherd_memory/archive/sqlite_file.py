"""One SQLite file: its connections, its version, and how to scrub it.

WAL with `synchronous=FULL` or NORMAL.  One connection writes; each read borrows
one that sees the last commit and never waits for the next.  Connections are
opened when needed, kept for the next who asks, and closed by `rest`, after
which the file is opened again when somebody needs it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Lock

from shepherd_memory.archive.availability import available
from shepherd_memory.errors import SchemaVersionError

Migration = str | Callable[[sqlite3.Connection], None]
"""From one version to the next: a script, or a function inside the transaction."""

MAX_IDLE_READERS = 4
BUSY_TIMEOUT_S = 10.0


class SqliteFile:
    """A file whose schema is made or brought up to date at once."""

    def __init__(self, path: Path, migrations: Sequence[Migration]) -> None:
        """Open the file and look at its version.

        Raises:
            SchemaVersionError: a later program wrote the file.
            StoreUnavailableError: as of every method: the file cannot be used just now.
        """
        self.path = path
        self._migrations = migrations
        self._lock = Lock()
        self._idle: list[sqlite3.Connection] = []
        self._rests = 0
        self._writing = Lock()
        self._writer: sqlite3.Connection | None = None
        with self._exclusively():
            pass

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Committed at the end of the block, undone by an exception; one thread at a time."""
        with self._exclusively() as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for one read; any thread."""
        with self._lock:
            idle = self._idle.pop() if self._idle else None
            rests = self._rests
        with available(self.path):
            connection = idle or _connect_to_read(self.path)
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
        with self._lock:
            keep = rests == self._rests and len(self._idle) < MAX_IDLE_READERS
            if keep:
                self._idle.append(connection)
        if not keep:
            connection.close()

    def scrub(self) -> None:
        """Overwrite what was deleted, in the file and its log; no transaction open.

        Raises:
            TimeoutError: somebody read for longer than `BUSY_TIMEOUT_S`.
        """
        with self._exclusively() as connection:
            connection.execute("VACUUM")
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise TimeoutError(
                f"{self.path} was read for more than {BUSY_TIMEOUT_S:g} s: what was deleted "
                "may still be in its log; erase again"
            )

    def size_bytes(self) -> int:
        """On disk, the log included."""
        beside = (self.path, self.path.with_name(self.path.name + "-wal"))
        return sum(path.stat().st_size for path in beside if path.exists())

    def rest(self) -> None:
        """Close all connections that are not in use, and the others as they come back."""
        with self._lock:
            self._rests += 1
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        if self._writing.acquire(blocking=False):
            self._close_writer()
            self._writing.release()

    def remove(self) -> None:
        """Close and unlink the file and what SQLite keeps beside it."""
        self.rest()
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    @contextmanager
    def _exclusively(self) -> Iterator[sqlite3.Connection]:
        with self._writing, available(self.path):
            rests = self._rests
            if self._writer is None:
                self._writer = open_database(self.path, self._migrations, synchronous="FULL")
            try:
                yield self._writer
            finally:
                if rests != self._rests:
                    self._close_writer()

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def open_database(
    path: Path, migrations: Sequence[Migration], *, synchronous: str
) -> sqlite3.Connection:
    """The writing connection to a file in write-ahead mode, brought to the last version.

    Each migration is one transaction: a crash in between leaves an earlier version.

    Raises:
        SchemaVersionError: the file's `schema_version` is beyond the last migration.
    """
    connection = connect(path)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        _bring_up_to_date(connection, path, migrations)
    except BaseException:
        connection.close()
        raise
    return connection


def connect(path: Path) -> sqlite3.Connection:
    """A plain connection, for whatever thread."""
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    return connection


def _connect_to_read(path: Path) -> sqlite3.Connection:
    connection = connect(path)
    connection.execute("PRAGMA query_only = ON")
    return connection


def copy_database(source: sqlite3.Connection, path: Path) -> None:
    """Copy a database page by page while others use it.

    Raises:
        FileExistsError: there is something at `path`.
    """
    with path.open("xb"):
        path.chmod(0o600)
    with closing(sqlite3.connect(path)) as target:
        source.backup(target, pages=1024, sleep=0.001)


def _bring_up_to_date(
    connection: sqlite3.Connection, path: Path, migrations: Sequence[Migration]
) -> None:
    found = _version_of(connection)
    if found > len(migrations):
        raise SchemaVersionError(path, found, len(migrations))
    for version in range(found, len(migrations)):
        _migrate(connection, migrations[version], version + 1)


def _version_of(connection: sqlite3.Connection) -> int:
    if not connection.execute(
        "SELECT 1 FROM sqlite_master WHERE name = 'schema_version'"
    ).fetchone():
        return 0
    return int(connection.execute("SELECT version FROM schema_version").fetchone()[0])


def _migrate(connection: sqlite3.Connection, migration: Migration, version: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        if isinstance(migration, str):
            for statement in migration.split(";\n"):
                connection.execute(statement)
        else:
            migration(connection)
        connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
        connection.execute("DELETE FROM schema_version")
        connection.execute("INSERT INTO schema_version VALUES (?)", (version,))
