"""One tenant's turns, search index, outbox and facts in one SQLite file.

`synchronous=FULL`: what a transaction committed survives a power failure.  FTS5
counts the terms; only archived turns are in it, so that the statistics are
those of this tenant's archive alone.  Statements only: what they are for stands
at `Archive`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from shepherd_memory.archive.records import (
    ArchiveStats,
    DeadLetter,
    Document,
    Erased,
    Fact,
    NoticeState,
    Postings,
    Quota,
    SessionSummary,
    StoredNotice,
    StoredTurn,
    StoredVectors,
    Tombstone,
    TombstoneScope,
)
from shepherd_memory.archive.sqlite_erasure import (
    beyond,
    bury,
    doom,
    erase_session,
    optimise_index,
    remove_doomed,
)
from shepherd_memory.archive.sqlite_file import SqliteFile, connect, copy_database
from shepherd_memory.archive.sqlite_rows import (
    NOTICE_COLUMNS,
    TURN_COLUMNS,
    Values,
    dead_letter_of,
    notice_of_row,
    postings_of,
    select_turns,
    turn_of,
)
from shepherd_memory.archive.sqlite_schema import MIGRATIONS
from shepherd_memory.archive.sqlite_writer import FACT_NOW, SqliteArchiveWriter
from shepherd_memory.facts import fold_key

_FACT = "key, value, set_unix_ns, ended_unix_ns"


class SqliteArchive:
    """`Archive` in the file `path`, which is made when missing."""

    def __init__(self, path: Path, tenant: str) -> None:
        """Open the file and bring it to this program's version.

        Raises:
            SchemaVersionError: a later program wrote the file.
        """
        self._file = SqliteFile(path, MIGRATIONS)
        self._tenant = tenant
        if not self._rows("SELECT 1 FROM tenants"):
            with self._file.transaction() as connection:
                connection.execute("INSERT INTO tenants VALUES (?)", (tenant,))

    @property
    def tenant(self) -> str:
        """See `Archive.tenant`."""
        return self._tenant

    @contextmanager
    def writing(self) -> Iterator[SqliteArchiveWriter]:
        """See `Archive.writing`."""
        with self._file.transaction() as connection:
            yield SqliteArchiveWriter(connection, self._tenant)

    def close(self) -> None:
        """See `Archive.close`; a closed store opens again when it is used."""
        self._file.rest()

    # Turns

    def live_turns(self) -> Iterator[StoredTurn]:
        """See `TurnReader.live_turns`."""
        with self._file.reading() as connection:
            yield from select_turns(connection, "WHERE state = 'live' ORDER BY row")

    def sessions(self, *, after: str, limit: int) -> list[SessionSummary]:
        """See `TurnReader.sessions`."""
        return self._summaries(
            "WHERE session > ? GROUP BY session ORDER BY session LIMIT ?", after, limit
        )

    def session(self, session: str) -> SessionSummary | None:
        """See `TurnReader.session`."""
        return next(iter(self._summaries("WHERE session = ? GROUP BY session", session)), None)

    def turns(self, session: str, *, after: int, limit: int) -> list[StoredTurn]:
        """See `TurnReader.turns`."""
        page = """WHERE session = :session AND ordinal > :after AND ordinal <= coalesce(
                (SELECT ordinal FROM turns WHERE session = :session AND ordinal > :after
                 ORDER BY ordinal LIMIT 1 OFFSET :limit - 1), 9223372036854775807)
            ORDER BY ordinal, started_unix_ns, archive_id"""
        values = {"session": session, "after": after, "limit": limit}
        with self._file.reading() as connection:
            return list(select_turns(connection, page, values))

    def memories(self, *, after: str, limit: int) -> list[StoredTurn]:
        """See `TurnReader.memories`."""
        page = "WHERE session = '' AND archive_id > ? ORDER BY archive_id LIMIT ?"
        with self._file.reading() as connection:
            return list(select_turns(connection, page, (after, limit)))

    # Everything else that can be looked at

    def notices(
        self, *, session: str | None, state: NoticeState | None, after: int, limit: int
    ) -> list[StoredNotice]:
        """See `RecordReader.notices`."""
        statement = f"""SELECT {NOTICE_COLUMNS} FROM notices
            WHERE position > :after AND (:session IS NULL OR session = :session)
                AND (:state IS NULL OR state = :state) ORDER BY position LIMIT :limit"""  # noqa: S608  constants only
        values = {"after": after, "session": session, "state": state, "limit": limit}
        return [notice_of_row(row, self._tenant) for row in self._rows(statement, values)]

    def fact(self, key: str) -> Fact | None:
        """See `RecordReader.fact`."""
        rows = self._rows(FACT_NOW, {"key": key, "folded": fold_key(key)})
        return Fact(*rows[0]) if rows else None

    def facts(self, *, after: str, limit: int) -> list[Fact]:
        """See `RecordReader.facts`."""
        statement = f"""SELECT {_FACT} FROM facts WHERE ended_unix_ns = 0 AND key > ?
            ORDER BY key LIMIT ?"""  # noqa: S608  constants only
        return [Fact(*row) for row in self._rows(statement, (after, limit))]

    def fact_history(self, key: str, *, limit: int) -> list[Fact]:
        """See `RecordReader.fact_history`."""
        statement = f"SELECT {_FACT} FROM facts WHERE key = ? ORDER BY row DESC LIMIT ?"  # noqa: S608  constants only
        return [Fact(*row) for row in self._rows(statement, (key, limit))]

    def dead_letters(self, *, after: str, limit: int) -> list[DeadLetter]:
        """See `RecordReader.dead_letters`."""
        statement = "SELECT * FROM dead_letters WHERE name > ? ORDER BY name LIMIT ?"
        return [dead_letter_of(row) for row in self._rows(statement, (after, limit))]

    def dead_letter(self, name: str) -> DeadLetter | None:
        """See `RecordReader.dead_letter`."""
        rows = self._rows("SELECT * FROM dead_letters WHERE name = ?", (name,))
        return dead_letter_of(rows[0]) if rows else None

    def tombstones(self) -> list[Tombstone]:
        """See `RecordReader.tombstones`."""
        rows = self._rows("SELECT scope, name, erased_unix_ns FROM tombstones ORDER BY 1, 2")
        return [Tombstone(TombstoneScope(scope), name, erased) for scope, name, erased in rows]

    def stats(self) -> ArchiveStats:
        """See `RecordReader.stats`."""
        counts = """SELECT
            (SELECT count(DISTINCT session) FROM turns WHERE session <> '') AS sessions,
            (SELECT count(*) FROM turns WHERE state = 'live') AS live_turns,
            (SELECT count(*) FROM turns WHERE state = 'archived') AS archived_turns,
            (SELECT count(*) FROM vectors) AS vectors,
            (SELECT count(*) FROM notices WHERE state = 'pending') AS pending_notices,
            (SELECT count(*) FROM facts WHERE ended_unix_ns = 0) AS facts,
            (SELECT count(*) FROM dead_letters) AS dead_letters"""
        (row,) = self._rows(counts)
        return ArchiveStats(**dict(row), size_bytes=self._file.size_bytes())

    # What happened last

    def latest_sessions(self, *, limit: int) -> list[SessionSummary]:
        """See `LatestReader.latest_sessions`."""
        return self._summaries(
            "WHERE session <> '' GROUP BY session ORDER BY 4 DESC, 1 LIMIT ?", limit
        )

    def latest_notices(
        self, *, session: str | None, before: int | None, limit: int
    ) -> list[StoredNotice]:
        """See `LatestReader.latest_notices`."""
        statement = f"""SELECT {NOTICE_COLUMNS} FROM notices
            WHERE (:before IS NULL OR position < :before)
                AND (:session IS NULL OR session = :session) ORDER BY position DESC LIMIT :limit"""  # noqa: S608  constants only
        values = {"before": before, "session": session, "limit": limit}
        return [notice_of_row(row, self._tenant) for row in self._rows(statement, values)]

    def recalled_unix_ns(self, archive_ids: Iterable[str]) -> dict[str, int]:
        """See `LatestReader.recalled_unix_ns`."""
        statement = """SELECT archive_id, used_unix_ns FROM turns
            WHERE archive_id = ? AND used_unix_ns > 0"""
        return {row[0]: row[1] for row in self._among(statement, archive_ids)}

    # What the ranking is made of

    def generation(self) -> int:
        """See `SearchReader.generation`."""
        ((generation,),) = self._rows("SELECT generation FROM generation")
        return int(generation)

    def documents(self, *, after: int) -> Iterator[Document]:
        """See `SearchReader.documents`."""
        statement = """SELECT doc, session, ordinal, started_unix_ns, num_terms
            FROM documents JOIN turns ON turns.row = documents.turn WHERE doc > ? ORDER BY doc"""
        with self._file.reading() as connection:
            yield from map(Document._make, connection.execute(statement, (after,)))

    def frequencies(self, terms: Iterable[str]) -> dict[str, int]:
        """See `SearchReader.frequencies`."""
        rows = self._among("SELECT term, doc FROM term_counts WHERE term = ?", terms)
        return {row["term"]: row["doc"] for row in rows}

    def postings(self, terms: Iterable[str]) -> Iterator[Postings]:
        """See `SearchReader.postings`."""
        # One text of numbers is read several times faster than a row for each of them.
        statement = "SELECT group_concat(doc) FROM term_places WHERE term = ?"
        with self._file.reading() as connection:
            for term in terms:
                ((places,),) = connection.execute(statement, (term,))
                if places is not None:
                    yield postings_of(term, places)

    def documents_turns(self, docs: Iterable[int]) -> dict[int, StoredTurn]:
        """See `SearchReader.documents_turns`."""
        statement = f"""SELECT doc, {TURN_COLUMNS}
            FROM documents JOIN turns ON turns.row = documents.turn WHERE doc = ?"""  # noqa: S608  constants only
        return {row["doc"]: turn_of(row) for row in self._among(statement, docs)}

    def vectors(self, model: str, *, after: int) -> Iterator[StoredVectors]:
        """See `SearchReader.vectors`."""
        statement = """SELECT doc, vectors, number FROM vectors
            WHERE number > ? AND model = ? ORDER BY number"""
        with self._file.reading() as connection:
            for row in connection.execute(statement, (after, model)):
                yield StoredVectors(*row)

    def documents_vectors(self, model: str, docs: Iterable[int]) -> list[StoredVectors]:
        """See `SearchReader.documents_vectors`."""
        statement = """SELECT doc, vectors, number FROM vectors WHERE model = ?
            AND doc IN (SELECT value FROM json_each(?)) ORDER BY doc"""
        with self._file.reading() as connection:
            rows = connection.execute(statement, (model, json.dumps(list(docs)))).fetchall()
        return [StoredVectors(**dict(row)) for row in rows]

    def nearest(self, model: str, query: Sequence[float], *, limit: int) -> None:
        """See `SearchReader.nearest`; all are compared."""

    def without_vectors(
        self, model: str, *, after: int, limit: int
    ) -> list[tuple[int, StoredTurn]]:
        """See `SearchReader.without_vectors`."""
        statement = f"""SELECT documents.doc AS doc, {TURN_COLUMNS}
            FROM documents JOIN turns ON turns.row = documents.turn
            LEFT JOIN vectors ON vectors.doc = documents.doc AND vectors.model = :model
            WHERE vectors.doc IS NULL AND documents.doc > :after ORDER BY documents.doc LIMIT :limit"""  # noqa: S608  constants only
        rows = self._rows(statement, {"model": model, "after": after, "limit": limit})
        return [(row["doc"], turn_of(row)) for row in rows]

    # Removal for good, copies

    def erase_session(self, session: str, now_unix_ns: int) -> Erased:
        """See `Upkeep.erase_session`."""
        with self._erasing() as connection:
            return erase_session(connection, session, now_unix_ns)

    def erase_turn(self, archive_id: str, now_unix_ns: int) -> Erased:
        """See `Upkeep.erase_turn`."""
        with self._erasing() as connection:
            doom(connection, [archive_id])
            bury(connection, now_unix_ns)
            return remove_doomed(connection)

    def erase_fact(self, key: str) -> Erased:
        """See `Upkeep.erase_fact`."""
        with self._erasing() as connection:
            return Erased(
                facts=connection.execute("DELETE FROM facts WHERE key = ?", (key,)).rowcount
            )

    def erase_all(self, now_unix_ns: int) -> Erased:
        """Everything of the tenant: a new file takes the old one's place, with a tombstone in it."""
        counts = """SELECT (SELECT count(*) FROM turns), (SELECT count(*) FROM vectors),
            (SELECT count(*) FROM notices), (SELECT count(*) FROM facts),
            (SELECT count(*) FROM dead_letters)"""
        (row,) = self._rows(counts)
        generation = self.generation()
        self._file.remove()
        with self._file.transaction() as connection:
            connection.execute("INSERT INTO tenants VALUES (?)", (self._tenant,))
            connection.execute("UPDATE generation SET generation = ?", (generation + 1,))
            connection.execute("INSERT INTO tombstones VALUES ('tenant', '', ?)", (now_unix_ns,))
        return Erased(*row)

    def prune(self, quota: Quota, now_unix_ns: int) -> Erased:
        """See `Upkeep.prune`."""
        with self._file.reading() as connection:
            surplus = beyond(connection, quota)
        if not surplus:
            return Erased()
        with self._erasing() as connection:
            doom(connection, surplus)
            bury(connection, now_unix_ns)
            return remove_doomed(connection)

    def backup(self, path: Path) -> None:
        """See `Upkeep.backup`."""
        with self._file.reading() as connection:
            copy_database(connection, path)

    @contextmanager
    def _erasing(self) -> Iterator[sqlite3.Connection]:
        with self._file.transaction() as connection:
            yield connection
            optimise_index(connection)
        self._file.scrub()

    def _summaries(self, where: str, *values: object) -> list[SessionSummary]:
        statement = f"""SELECT session, sum(state = 'live'), sum(state = 'archived'),
            max(started_unix_ns) FROM turns {where}"""  # noqa: S608  constants only
        return [SessionSummary(*row) for row in self._rows(statement, values)]

    def _rows(self, statement: str, values: Values = ()) -> list[sqlite3.Row]:
        parameters = values if isinstance(values, dict) else tuple(values)
        with self._file.reading() as connection:
            return connection.execute(statement, parameters).fetchall()

    def _among(self, statement: str, keys: Iterable[object]) -> Iterator[sqlite3.Row]:
        """The rows of one statement for each of its keys, all from one view of the file."""
        with self._file.reading() as connection:
            for key in keys:
                yield from connection.execute(statement, (key,))

    def __repr__(self) -> str:
        return f"<SqliteArchive {self._file.path.name}>"


def tenant_of(path: Path) -> str | None:
    """Whose file it is; None where its creation was cut off before the tenant was written."""
    with closing(connect(path)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'tenants'").fetchone():
            return None
        row = connection.execute("SELECT tenant FROM tenants").fetchone()
        return None if row is None else str(row[0])
