"""One tenant's turns, search index and outbox in one SQLite file.

WAL with `synchronous=FULL`: what a transaction committed survives a power
failure.  One connection writes, for the writer thread; every read opens its
own, so that readers never wait for a commit.  Full-text search is FTS5 with
BM25 over "role: text" lines; only archived turns are in it, so that the
statistics are those of this tenant's archive alone.

Block hashes are packed as native 64-bit words: a file is read on the machine
architecture that wrote it.
"""

from __future__ import annotations

import json
import sqlite3
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from shepherd_events.events import Notice, StreamId
from shepherd_events.stream_cursor import Position
from shepherd_memory.archive.availability import available
from shepherd_memory.archive.protocol import (
    NoticeState,
    SearchHit,
    SessionSummary,
    StoredNotice,
    StoredTurn,
    TurnState,
)
from shepherd_memory.errors import SchemaVersionError
from shepherd_memory.eviction import Placement
from shepherd_memory.turns import Said

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE schema_version (version INTEGER NOT NULL);
CREATE TABLE tenants (tenant TEXT NOT NULL);
CREATE TABLE turns (
    row INTEGER PRIMARY KEY,
    archive_id TEXT NOT NULL UNIQUE,
    session TEXT NOT NULL,
    ordinal INTEGER NOT NULL,
    digest TEXT NOT NULL,
    messages TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('live', 'archived')),
    request_id TEXT NOT NULL,
    started_unix_ns INTEGER NOT NULL,
    archived_unix_ns INTEGER NOT NULL,
    worker_id TEXT NOT NULL,
    dp_rank INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    placed_unix_ns INTEGER NOT NULL,
    block_hashes BLOB NOT NULL
);
CREATE INDEX turns_by_session ON turns (session, ordinal);
CREATE INDEX turns_by_age ON turns (session, started_unix_ns, ordinal, archive_id);
CREATE INDEX live_turns ON turns (row) WHERE state = 'live';
CREATE TABLE notices (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    notice_id TEXT NOT NULL UNIQUE,
    session TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'acknowledged')),
    turns TEXT NOT NULL,
    archive_ids TEXT NOT NULL,
    topic TEXT NOT NULL,
    text TEXT NOT NULL,
    created_unix_ns INTEGER NOT NULL
);
CREATE INDEX notices_by_session ON notices (session, position);
CREATE VIRTUAL TABLE fts USING fts5 (
    lines, content='', tokenize='porter unicode61 remove_diacritics 2'
);
"""

_COLUMNS = """archive_id, session, ordinal, digest, messages, state, request_id, started_unix_ns,
    archived_unix_ns, worker_id, dp_rank, epoch, seq, placed_unix_ns, block_hashes"""


class SqliteArchive:
    """`Archive` in the file `path`, which is made when missing."""

    def __init__(self, path: Path, tenant: str) -> None:
        """Open the file and look at its version.

        Raises:
            SchemaVersionError: a later program wrote the file.
        """
        self._path = path
        self._tenant = tenant
        self._connection = open_database(path, _SCHEMA, SCHEMA_VERSION, synchronous="FULL")
        with self._connection:
            if not self._connection.execute("SELECT 1 FROM tenants").fetchone():
                self._connection.execute("INSERT INTO tenants VALUES (?)", (tenant,))

    @property
    def tenant(self) -> str:
        """See `Archive.tenant`."""
        return self._tenant

    @contextmanager
    def writing(self) -> Iterator[SqliteArchiveWriter]:
        """See `Archive.writing`."""
        with available(self._path), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield SqliteArchiveWriter(self._connection, self._tenant)

    def live_turns(self) -> Iterator[StoredTurn]:
        """See `Archive.live_turns`."""
        with self._reading() as connection:
            yield from _turns(connection, "WHERE state = 'live' ORDER BY row")

    def sessions(self, *, after: str, limit: int) -> list[SessionSummary]:
        """See `Archive.sessions`."""
        return self._summaries(
            "WHERE session > ? GROUP BY session ORDER BY session LIMIT ?", after, limit
        )

    def session(self, session: str) -> SessionSummary | None:
        """See `Archive.session`."""
        return next(iter(self._summaries("WHERE session = ? GROUP BY session", session)), None)

    def turns(self, session: str, *, after: int, limit: int) -> list[StoredTurn]:
        """See `Archive.turns`."""
        page = """WHERE session = :session AND ordinal > :after AND ordinal <= coalesce(
                (SELECT ordinal FROM turns WHERE session = :session AND ordinal > :after
                 ORDER BY ordinal LIMIT 1 OFFSET :limit - 1), 9223372036854775807)
            ORDER BY ordinal, started_unix_ns, archive_id"""
        with self._reading() as connection:
            return list(
                _turns(connection, page, {"session": session, "after": after, "limit": limit})
            )

    def notices(
        self, *, session: str | None, state: NoticeState | None, after: int, limit: int
    ) -> list[StoredNotice]:
        """See `Archive.notices`."""
        statement = """SELECT position, notice_id, session, state, turns, archive_ids, topic, text,
                created_unix_ns
            FROM notices WHERE position > :after AND (:session IS NULL OR session = :session)
                AND (:state IS NULL OR state = :state) ORDER BY position LIMIT :limit"""
        values = {"after": after, "session": session, "state": state, "limit": limit}
        with self._reading() as connection:
            return [self._notice(row) for row in connection.execute(statement, values)]

    def search(self, words: Sequence[str], *, session: str | None, limit: int) -> list[SearchHit]:
        """See `Archive.search`."""
        statement = f"""SELECT {_COLUMNS}, found.score FROM
                (SELECT rowid, -bm25(fts) AS score FROM fts WHERE fts MATCH :match) AS found
                JOIN turns ON turns.row = found.rowid
            WHERE :session IS NULL OR session = :session
            ORDER BY found.score DESC, started_unix_ns DESC, ordinal DESC LIMIT :limit"""  # noqa: S608  constants only
        match = " OR ".join('"' + word.replace('"', "") + '"' for word in words)
        values = {"match": match, "session": session, "limit": limit}
        with self._reading() as connection:
            rows = connection.execute(statement, values)
            return [SearchHit(_turn(row), row["score"]) for row in rows]

    def close(self) -> None:
        """See `Archive.close`."""
        self._connection.close()

    def _summaries(self, where: str, *values: object) -> list[SessionSummary]:
        statement = f"""SELECT session, sum(state = 'live'), sum(state = 'archived'),
            max(started_unix_ns) FROM turns {where}"""  # noqa: S608  constants only
        with self._reading() as connection:
            return [SessionSummary(*row) for row in connection.execute(statement, values)]

    def _notice(self, row: sqlite3.Row) -> StoredNotice:
        notice = Notice(
            notice_id=row["notice_id"],
            tenant=self._tenant,
            session_id=row["session"],
            turns=tuple(json.loads(row["turns"])),
            archive_ids=tuple(json.loads(row["archive_ids"])),
            topic=row["topic"],
            text=row["text"],
            created_unix_ns=row["created_unix_ns"],
        )
        return StoredNotice(row["position"], notice, NoticeState(row["state"]))

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with closing(_connect(self._path)) as connection:
            connection.execute("PRAGMA query_only = ON")
            yield connection

    def __repr__(self) -> str:
        return f"<SqliteArchive {self._path.name}>"


class SqliteArchiveWriter:
    """`ArchiveWriter` over one connection inside its transaction."""

    def __init__(self, connection: sqlite3.Connection, tenant: str) -> None:
        self._connection = connection
        self._tenant = tenant

    def session_turns(self, session: str) -> list[StoredTurn]:
        """See `ArchiveWriter.session_turns`."""
        where = "WHERE session = ? ORDER BY ordinal, started_unix_ns, archive_id"
        return list(_turns(self._connection, where, (session,)))

    def turn(self, archive_id: str) -> StoredTurn | None:
        """See `ArchiveWriter.turn`."""
        return next(_turns(self._connection, "WHERE archive_id = ?", (archive_id,)), None)

    def newest(self, session: str) -> str | None:
        """See `ArchiveWriter.newest`."""
        row = self._connection.execute(
            """SELECT archive_id FROM turns WHERE session = ?
            ORDER BY started_unix_ns DESC, ordinal DESC, archive_id DESC LIMIT 1""",
            (session,),
        ).fetchone()
        return None if row is None else str(row[0])

    def insert(self, turn: StoredTurn) -> None:
        """See `ArchiveWriter.insert`."""
        values = (
            *(turn.archive_id, turn.session, turn.ordinal, turn.digest, _packed(turn.messages)),
            *(TurnState.LIVE, turn.request_id, turn.started_unix_ns, 0),
            *_placement_values(turn.placement),
        )
        marks = ", ".join("?" * len(values))
        self._connection.execute(
            f"INSERT OR IGNORE INTO turns ({_COLUMNS}) VALUES ({marks})",  # noqa: S608  constants only
            values,
        )

    def supersede(self, archive_id: str) -> None:
        """See `ArchiveWriter.supersede`."""
        self._connection.execute(
            "DELETE FROM turns WHERE archive_id = ? AND state = 'live'", (archive_id,)
        )

    def place(self, archive_id: str, placement: Placement) -> None:
        """See `ArchiveWriter.place`."""
        self._connection.execute(
            """UPDATE turns SET worker_id = ?, dp_rank = ?, epoch = ?, seq = ?, placed_unix_ns = ?,
            block_hashes = ? WHERE archive_id = ? AND state = 'live'""",
            (*_placement_values(placement), archive_id),
        )

    def archive(self, archive_id: str, now_unix_ns: int) -> bool:
        """See `ArchiveWriter.archive`."""
        changed = self._connection.execute(
            """UPDATE turns SET state = 'archived', archived_unix_ns = ?
            WHERE archive_id = ? AND state = 'live' RETURNING row, messages""",
            (now_unix_ns, archive_id),
        ).fetchone()
        if changed is None:
            return False
        lines = "\n".join(f"{said.role}: {said.text}" for said in _unpacked(changed["messages"]))
        encodable = lines.encode("utf-8", "replace").decode()
        self._connection.execute(
            "INSERT INTO fts (rowid, lines) VALUES (?, ?)", (changed["row"], encodable)
        )
        return True

    def add_notice(self, notice: Notice) -> None:
        """See `ArchiveWriter.add_notice`."""
        self._connection.execute(
            """INSERT OR IGNORE INTO notices (notice_id, session, state, turns, archive_ids, topic,
            text, created_unix_ns) VALUES (?, ?, 'pending', ?, ?, ?, ?, ?)""",
            (
                *(notice.notice_id, notice.session_id, json.dumps(notice.turns)),
                *(json.dumps(notice.archive_ids), notice.topic, notice.text),
                notice.created_unix_ns,
            ),
        )

    def acknowledge(self, notice_id: str) -> bool:
        """See `ArchiveWriter.acknowledge`."""
        changed = self._connection.execute(
            "UPDATE notices SET state = 'acknowledged' WHERE notice_id = ?", (notice_id,)
        )
        return changed.rowcount > 0


def open_database(path: Path, schema: str, version: int, *, synchronous: str) -> sqlite3.Connection:
    """The writing connection to a file in write-ahead mode, whose schema is made when missing.

    Raises:
        SchemaVersionError: the file's `schema_version` is not `version`.
    """
    connection = _connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    if not connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
        made = f"BEGIN; {schema} INSERT INTO schema_version VALUES ({version}); COMMIT;"  # noqa: S608  constants only
        connection.executescript(made)
    (found,) = connection.execute("SELECT version FROM schema_version").fetchone()
    if found != version:
        connection.close()
        raise SchemaVersionError(path, found, version)
    return connection


def tenant_of(path: Path) -> str | None:
    """Whose file it is; None where its creation was cut off before the tenant was written."""
    with closing(_connect(path)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'tenants'").fetchone():
            return None
        row = connection.execute("SELECT tenant FROM tenants").fetchone()
        return None if row is None else str(row[0])


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=10.0, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    return connection


def _turns(
    connection: sqlite3.Connection, where: str, values: Iterable[Any] | dict[str, Any] = ()
) -> Iterator[StoredTurn]:
    parameters = values if isinstance(values, dict) else tuple(values)
    return map(_turn, connection.execute(f"SELECT {_COLUMNS} FROM turns {where}", parameters))  # noqa: S608  constants only


def _turn(row: sqlite3.Row) -> StoredTurn:
    placement = Placement(
        stream=StreamId(row["worker_id"], row["dp_rank"]),
        position=Position(row["epoch"], row["seq"]),
        started_unix_ns=row["placed_unix_ns"],
        block_hashes=array("Q", row["block_hashes"]),
    )
    return StoredTurn(
        archive_id=row["archive_id"],
        session=row["session"],
        ordinal=row["ordinal"],
        digest=row["digest"],
        messages=_unpacked(row["messages"]),
        placement=placement,
        request_id=row["request_id"],
        started_unix_ns=row["started_unix_ns"],
        state=TurnState(row["state"]),
        archived_unix_ns=row["archived_unix_ns"],
    )


def _placement_values(placement: Placement) -> tuple[object, ...]:
    stream, position = placement.stream, placement.position
    return (
        *(stream.worker_id, stream.dp_rank, position.epoch, position.seq),
        *(placement.started_unix_ns, placement.block_hashes.tobytes()),
    )


def _packed(messages: Iterable[Said]) -> str:
    return json.dumps([[said.role, said.text] for said in messages])


def _unpacked(messages: str) -> tuple[Said, ...]:
    return tuple(Said(role, text) for role, text in json.loads(messages))
