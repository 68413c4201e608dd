"""One tenant's turns, search index, outbox and facts in tables that all tenants share.

Every statement names the tenant, and the tables' policies let nothing else
through.  Statements only: what they are for stands at `Archive`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from psycopg.rows import DictRow

from shepherd_memory.archive.postgres_backup import copy_rows
from shepherd_memory.archive.postgres_erasure import (
    beyond,
    bury,
    deleted,
    erase_all,
    erase_session,
    remove_turns,
)
from shepherd_memory.archive.postgres_nearness import PostgresNearness
from shepherd_memory.archive.postgres_pool import PostgresPool, text_of
from shepherd_memory.archive.postgres_rows import (
    NOTICE_COLUMNS,
    TURN_COLUMNS,
    dead_letter_of,
    fact_of,
    notice_of_row,
    select_turns,
    summary_of,
    turn_of,
)
from shepherd_memory.archive.postgres_speaker import Speaker
from shepherd_memory.archive.postgres_transaction import PostgresTransaction
from shepherd_memory.archive.postgres_writer import FACT_NOW, PostgresArchiveWriter
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
from shepherd_memory.facts import fold_key

PAGE = 5000
"""Rows of a long read that are fetched at once."""

_STATS = """SELECT
    count(DISTINCT session) FILTER (WHERE session <> '') AS sessions,
    count(*) FILTER (WHERE NOT archived) AS live_turns,
    count(*) FILTER (WHERE archived) AS archived_turns,
    (SELECT count(*) FROM vectors WHERE tenant = %(tenant)s) AS vectors,
    (SELECT count(*) FROM notices WHERE tenant = %(tenant)s AND NOT acknowledged)
        AS pending_notices,
    (SELECT count(*) FROM facts WHERE tenant = %(tenant)s AND ended_unix_ns = 0) AS facts,
    (SELECT count(*) FROM dead_letters WHERE tenant = %(tenant)s) AS dead_letters,
    (coalesce(sum(pg_column_size(messages) + pg_column_size(block_hashes)), 0)
        + (SELECT coalesce(sum(pg_column_size(value)), 0) FROM facts WHERE tenant = %(tenant)s)
        + (SELECT coalesce(sum(pg_column_size(vectors)), 0) FROM vectors
            WHERE tenant = %(tenant)s))::bigint AS size_bytes
    FROM turns WHERE tenant = %(tenant)s"""
_POSTINGS = """SELECT term, string_agg(int8send(doc), ''::bytea ORDER BY doc) AS docs,
    string_agg(int8send(occurrences), ''::bytea ORDER BY doc) AS occurrences
    FROM postings WHERE tenant = %(tenant)s AND term = ANY(%(terms)s::bytea[]) GROUP BY term"""
_SUMMARY = """SELECT session, count(*) FILTER (WHERE NOT archived) AS live,
    count(*) FILTER (WHERE archived) AS archived, max(started_unix_ns) AS last
    FROM turns WHERE tenant = %(tenant)s"""
_FACT = "SELECT key, value, set_unix_ns, ended_unix_ns FROM facts WHERE tenant = %(tenant)s"


class PostgresArchive:
    """`Archive` of one tenant; any thread, writers of one tenant wait for each other."""

    def __init__(
        self, pool: PostgresPool, tenant: str, speaker: Speaker, nearness: PostgresNearness | None
    ) -> None:
        self._pool = pool
        self._nearness = nearness
        self._tenant = tenant
        self.speaker = speaker
        """The tenant in every table; of one server, see `PostgresPool`."""
        self._number = speaker.number

    @property
    def tenant(self) -> str:
        """See `Archive.tenant`."""
        return self._tenant

    @contextmanager
    def writing(self) -> Iterator[PostgresArchiveWriter]:
        """See `Archive.writing`."""
        with self._pool.pipelined() as connection:
            transaction = PostgresTransaction(self._pool, connection, self._nearness)
            writer = transaction.writer(self._tenant, self.speaker)
            yield writer
            writer.flush()

    def close(self) -> None:
        """See `Archive.close`; the connections are all tenants'."""

    # Turns

    def live_turns(self) -> Iterator[StoredTurn]:
        """See `TurnReader.live_turns`."""
        return iter(self._turns("AND NOT archived ORDER BY row"))

    def sessions(self, *, after: str, limit: int) -> list[SessionSummary]:
        """See `TurnReader.sessions`."""
        page = "AND session > %(after)s GROUP BY session ORDER BY session LIMIT %(limit)s"
        return list(map(summary_of, self._rows(f"{_SUMMARY} {page}", after=after, limit=limit)))

    def session(self, session: str) -> SessionSummary | None:
        """See `TurnReader.session`."""
        one = f"{_SUMMARY} AND session = %(session)s GROUP BY session"
        return next(map(summary_of, self._rows(one, session=session)), None)

    def turns(self, session: str, *, after: int, limit: int) -> list[StoredTurn]:
        """See `TurnReader.turns`."""
        page = """AND session = %(session)s AND ordinal > %(after)s AND ordinal <= coalesce(
                (SELECT ordinal FROM turns WHERE tenant = %(tenant)s AND session = %(session)s
                 AND ordinal > %(after)s ORDER BY ordinal LIMIT 1 OFFSET %(limit)s - 1),
                9223372036854775807)
            ORDER BY ordinal, started_unix_ns, archive_id"""
        return self._turns(page, session=session, after=after, limit=limit)

    def memories(self, *, after: str, limit: int) -> list[StoredTurn]:
        """See `TurnReader.memories`."""
        page = "AND session = '' AND archive_id > %(after)s ORDER BY archive_id LIMIT %(limit)s"
        return self._turns(page, after=after, limit=limit)

    # Everything else that can be looked at

    def notices(
        self, *, session: str | None, state: NoticeState | None, after: int, limit: int
    ) -> list[StoredNotice]:
        """See `RecordReader.notices`."""
        statement = f"""SELECT {NOTICE_COLUMNS} FROM notices
            WHERE tenant = %(tenant)s AND position > %(after)s
                AND (%(session)s::bytea IS NULL OR session = %(session)s)
                AND (%(heard)s::boolean IS NULL OR acknowledged = %(heard)s)
            ORDER BY position LIMIT %(limit)s"""  # noqa: S608  constants only
        heard = None if state is None else state is NoticeState.ACKNOWLEDGED
        rows = self._rows(statement, session=session, heard=heard, after=after, limit=limit)
        return [notice_of_row(row, self._tenant) for row in rows]

    def fact(self, key: str) -> Fact | None:
        """See `RecordReader.fact`."""
        return next(map(fact_of, self._rows(FACT_NOW, key=key, folded=fold_key(key))), None)

    def facts(self, *, after: str, limit: int) -> list[Fact]:
        """See `RecordReader.facts`."""
        page = "AND ended_unix_ns = 0 AND key > %(after)s ORDER BY key LIMIT %(limit)s"
        return list(map(fact_of, self._rows(f"{_FACT} {page}", after=after, limit=limit)))

    def fact_history(self, key: str, *, limit: int) -> list[Fact]:
        """See `RecordReader.fact_history`."""
        page = "AND key = %(key)s ORDER BY row DESC LIMIT %(limit)s"
        return list(map(fact_of, self._rows(f"{_FACT} {page}", key=key, limit=limit)))

    def dead_letters(self, *, after: str, limit: int) -> list[DeadLetter]:
        """See `RecordReader.dead_letters`."""
        statement = """SELECT * FROM dead_letters WHERE tenant = %(tenant)s AND name > %(after)s
            ORDER BY name LIMIT %(limit)s"""
        return list(map(dead_letter_of, self._rows(statement, after=after, limit=limit)))

    def dead_letter(self, name: str) -> DeadLetter | None:
        """See `RecordReader.dead_letter`."""
        statement = "SELECT * FROM dead_letters WHERE tenant = %(tenant)s AND name = %(name)s"
        return next(map(dead_letter_of, self._rows(statement, name=name)), None)

    def tombstones(self) -> list[Tombstone]:
        """See `RecordReader.tombstones`."""
        statement = """SELECT scope, name, erased_unix_ns FROM tombstones
            WHERE tenant = %(tenant)s ORDER BY scope, name"""
        return [
            Tombstone(
                TombstoneScope(text_of(row["scope"])), text_of(row["name"]), row["erased_unix_ns"]
            )
            for row in self._rows(statement)
        ]

    def stats(self) -> ArchiveStats:
        """See `RecordReader.stats`; the size is that of turns, facts and vectors, compressed."""
        (row,) = self._rows(_STATS)
        return ArchiveStats(**row)

    # What happened last

    def latest_sessions(self, *, limit: int) -> list[SessionSummary]:
        """See `LatestReader.latest_sessions`."""
        page = "AND session <> '' GROUP BY session ORDER BY last DESC, session LIMIT %(limit)s"
        return list(map(summary_of, self._rows(f"{_SUMMARY} {page}", limit=limit)))

    def latest_notices(
        self, *, session: str | None, before: int | None, limit: int
    ) -> list[StoredNotice]:
        """See `LatestReader.latest_notices`."""
        statement = f"""SELECT {NOTICE_COLUMNS} FROM notices WHERE tenant = %(tenant)s
                AND (%(before)s::bigint IS NULL OR position < %(before)s)
                AND (%(session)s::bytea IS NULL OR session = %(session)s)
            ORDER BY position DESC LIMIT %(limit)s"""  # noqa: S608  constants only
        rows = self._rows(statement, before=before, session=session, limit=limit)
        return [notice_of_row(row, self._tenant) for row in rows]

    def recalled_unix_ns(self, archive_ids: Iterable[str]) -> dict[str, int]:
        """See `LatestReader.recalled_unix_ns`."""
        statement = """SELECT archive_id, used_unix_ns FROM turns WHERE tenant = %(tenant)s
            AND archive_id = ANY(%(ids)s::bytea[]) AND used_unix_ns > 0"""
        rows = self._rows(statement, ids=list(archive_ids))
        return {text_of(row["archive_id"]): row["used_unix_ns"] for row in rows}

    # What the ranking is made of

    def generation(self) -> int:
        """See `SearchReader.generation`."""
        (row,) = self._rows("SELECT generation FROM tenants WHERE tenant = %(tenant)s")
        return int(row["generation"])

    def documents(self, *, after: int) -> Iterator[Document]:
        """See `SearchReader.documents`."""
        statement = """SELECT doc, session, ordinal, started_unix_ns, num_terms FROM turns
            WHERE tenant = %(tenant)s AND doc > %(after)s ORDER BY doc LIMIT %(limit)s"""
        for row in self._paged(statement, "doc", after):
            yield Document(**row | {"session": text_of(row["session"])})

    def frequencies(self, terms: Iterable[str]) -> dict[str, int]:
        """See `SearchReader.frequencies`."""
        statement = """SELECT term, count(*) AS documents FROM postings
            WHERE tenant = %(tenant)s AND term = ANY(%(terms)s::bytea[]) GROUP BY term"""
        rows = self._rows(statement, terms=list(terms))
        return {text_of(row["term"]): row["documents"] for row in rows}

    def postings(self, terms: Iterable[str]) -> Iterator[Postings]:
        """See `SearchReader.postings`."""
        for row in self._rows(_POSTINGS, terms=list(terms)):
            term = text_of(row["term"])
            yield Postings(term, _integers(row["docs"]), _integers(row["occurrences"]))

    def documents_turns(self, docs: Iterable[int]) -> dict[int, StoredTurn]:
        """See `SearchReader.documents_turns`."""
        statement = f"""SELECT doc, {TURN_COLUMNS} FROM turns
            WHERE tenant = %(tenant)s AND doc = ANY(%(docs)s::bigint[])"""  # noqa: S608  constants only
        return {row["doc"]: turn_of(row) for row in self._rows(statement, docs=list(docs))}

    def vectors(self, model: str, *, after: int) -> Iterator[StoredVectors]:
        """See `SearchReader.vectors`."""
        statement = """SELECT doc, vectors, number FROM vectors
            WHERE tenant = %(tenant)s AND number > %(after)s AND model = %(model)s
            ORDER BY number LIMIT %(limit)s"""
        for row in self._paged(statement, "number", after, model=model):
            yield StoredVectors(**row)

    def documents_vectors(self, model: str, docs: Iterable[int]) -> list[StoredVectors]:
        """See `SearchReader.documents_vectors`."""
        statement = """SELECT doc, vectors, number FROM vectors WHERE tenant = %(tenant)s
            AND model = %(model)s AND doc = ANY(%(docs)s::bigint[]) ORDER BY doc"""
        return [StoredVectors(**row) for row in self._rows(statement, model=model, docs=list(docs))]

    def nearest(self, model: str, query: Sequence[float], *, limit: int) -> list[int] | None:
        """See `SearchReader.nearest`; large tenants, where pgvector is there."""
        nearness = self._nearness
        if nearness is None or nearness.model != model:
            return None
        with self._pool.pipelined(self.speaker) as connection:
            return nearness.candidates(connection, self._number, query, limit)

    def fill_nearness(self) -> int:
        """Put vectors again that were written without; returns how many."""
        if self._nearness is None:
            return 0
        model, number = self._nearness.model, 0
        statement = """SELECT doc, vectors, number FROM vectors
            WHERE tenant = %(tenant)s AND near IS NULL AND model = %(model)s
                AND number > %(after)s AND number <= %(last)s ORDER BY number LIMIT %(limit)s"""
        (counted,) = self._rows("SELECT last_vectors FROM tenants WHERE tenant = %(tenant)s")
        for rows in self._pages(statement, "number", 0, model=model, last=counted["last_vectors"]):
            with self.writing() as writer:
                writer.put_vectors(model, [StoredVectors(**row) for row in rows])
            number += len(rows)
        return number

    def without_vectors(
        self, model: str, *, after: int, limit: int
    ) -> list[tuple[int, StoredTurn]]:
        """See `SearchReader.without_vectors`."""
        statement = f"""SELECT doc, {TURN_COLUMNS} FROM turns
            WHERE tenant = %(tenant)s AND doc > %(after)s AND NOT EXISTS (
                SELECT 1 FROM vectors WHERE vectors.tenant = turns.tenant
                AND vectors.doc = turns.doc AND vectors.model = %(model)s)
            ORDER BY doc LIMIT %(limit)s"""  # noqa: S608  constants only
        rows = self._rows(statement, model=model, after=after, limit=limit)
        return [(row["doc"], turn_of(row)) for row in rows]

    # Removal for good, copies

    def erase_session(self, session: str, now_unix_ns: int) -> Erased:
        """See `Upkeep.erase_session`."""
        with self._erasing() as transaction:
            connection = transaction.speaking_for(self.speaker)
            return erase_session(connection, self._number, session, now_unix_ns)

    def erase_turn(self, archive_id: str, now_unix_ns: int) -> Erased:
        """See `Upkeep.erase_turn`."""
        return self._remove([archive_id], now_unix_ns)

    def erase_fact(self, key: str) -> Erased:
        """See `Upkeep.erase_fact`."""
        with self._erasing() as transaction:
            connection = transaction.speaking_for(self.speaker)
            facts = "DELETE FROM facts WHERE tenant = %s AND key = %s"
            return Erased(facts=deleted(connection, facts, self._number, key))

    def erase_all(self, now_unix_ns: int) -> Erased:
        """Everything of the tenant, but for a tombstone."""
        with self._erasing() as transaction:
            return erase_all(transaction.speaking_for(self.speaker), self._number, now_unix_ns)

    def prune(self, quota: Quota, now_unix_ns: int) -> Erased:
        """See `Upkeep.prune`."""
        with self._pool.transaction(self.speaker) as connection:
            surplus = beyond(connection, self._number, quota)
        return self._remove(surplus, now_unix_ns) if surplus else Erased()

    def backup(self, path: Path) -> None:
        """See `Upkeep.backup`; the tenant's rows as lines of JSON, to read and not to restore."""
        copy_rows(self._pool, self.speaker, path)

    def _remove(self, archive_ids: list[str], now_unix_ns: int) -> Erased:
        with self._erasing() as transaction:
            connection = transaction.speaking_for(self.speaker)
            bury(connection, self._number, archive_ids, now_unix_ns)
            return remove_turns(connection, self._number, archive_ids)

    @contextmanager
    def _erasing(self) -> Iterator[PostgresTransaction]:
        with self._pool.transaction() as connection:
            transaction = PostgresTransaction(self._pool, connection)
            transaction.lock(self.speaker)
            yield transaction

    def _turns(self, where: str, **values: object) -> list[StoredTurn]:
        with self._pool.pipelined(self.speaker) as connection:
            return list(select_turns(connection, where, {"tenant": self._number, **values}))

    def _rows(self, statement: str, **values: object) -> list[DictRow]:
        with self._pool.pipelined(self.speaker) as connection:
            return connection.execute(statement, {"tenant": self._number, **values}).fetchall()

    def _paged(
        self, statement: str, number: str, after: int, **values: object
    ) -> Iterator[DictRow]:
        for rows in self._pages(statement, number, after, **values):
            yield from rows

    def _pages(
        self, statement: str, number: str, after: int, **values: object
    ) -> Iterator[list[DictRow]]:
        """A long read in pages, in the order of a column that only grows."""
        while rows := self._rows(statement, after=after, limit=PAGE, **values):
            yield rows
            after = rows[-1][number]

    def __repr__(self) -> str:
        return f"<PostgresArchive {self._number} in {self._pool.name}>"


def _integers(raw: bytes) -> array[int]:
    """Integers as the server sends them, in network order."""
    return array("q", np.frombuffer(raw, ">i8").astype(np.int64).tobytes())
