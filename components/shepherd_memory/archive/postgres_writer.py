"""The writes of one transaction on a tenant's rows in the shared tables.

Statements only: what they are for stands at `ArchiveWriter`.  Whoever begins the
transaction has locked the tenant's row in `tenants`: one writes at a time, so
that its numbers become visible in their order however many replicas there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from psycopg.rows import DictRow

from shepherd_events.events import Notice
from shepherd_events.stream_cursor import Position
from shepherd_memory.analysis import document_terms
from shepherd_memory.archive.postgres_erasure import remove_turns
from shepherd_memory.archive.postgres_pool import Connection, text_of
from shepherd_memory.archive.postgres_rows import TURN_COLUMNS, select_turns, turn_values
from shepherd_memory.archive.records import (
    STORED_MEMORY_SESSION,
    DeadLetter,
    StoredTurn,
    StoredVectors,
)
from shepherd_memory.archive.sqlite_erasure import session_name
from shepherd_memory.archive.sqlite_rows import placement_values, unpacked
from shepherd_memory.archive.stored_memory import stored_memory
from shepherd_memory.eviction import Placement
from shepherd_memory.facts import fold_key

FACT_NOW = """SELECT key, value, set_unix_ns, ended_unix_ns FROM facts
    WHERE tenant = %(tenant)s AND ended_unix_ns = 0 AND (key = %(key)s OR folded = %(folded)s)
    ORDER BY key = %(key)s DESC, set_unix_ns DESC, row DESC LIMIT 1"""


class PostgresArchiveWriter:
    """`ArchiveWriter` over a connection inside its transaction."""

    def __init__(self, open_: Callable[[], Connection], tenant: str, number: int) -> None:
        """`open_` gives the transaction's connection, which speaks for this tenant then."""
        self._open = open_
        self._tenant = tenant
        self._number = number

    def session_turns(self, session: str) -> list[StoredTurn]:
        """See `TurnWriter.session_turns`."""
        where = "AND session = %(session)s ORDER BY ordinal, started_unix_ns, archive_id"
        return list(self._turns(where, session=session))

    def turn(self, archive_id: str) -> StoredTurn | None:
        """See `TurnWriter.turn`."""
        return next(self._turns("AND archive_id = %(id)s", id=archive_id), None)

    def newest(self, session: str) -> str | None:
        """See `TurnWriter.newest`."""
        row = self._first(
            """SELECT archive_id FROM turns WHERE tenant = %s AND session = %s
            ORDER BY started_unix_ns DESC, ordinal DESC, archive_id DESC LIMIT 1""",
            session,
        )
        return None if row is None else text_of(row["archive_id"])

    def insert(self, turn: StoredTurn) -> bool:
        """See `TurnWriter.insert`."""
        if self._is_erased(turn):
            return False
        self._insert(turn)
        return True

    def supersede(self, archive_id: str) -> None:
        """See `TurnWriter.supersede`."""
        self._write(
            "DELETE FROM turns WHERE tenant = %s AND archive_id = %s AND NOT archived", archive_id
        )

    def place(self, archive_id: str, placement: Placement) -> None:
        """See `TurnWriter.place`."""
        self._open().execute(
            """UPDATE turns SET worker_id = %s, dp_rank = %s, epoch = %s, seq = %s,
            placed_unix_ns = %s, block_hashes = %s
            WHERE tenant = %s AND archive_id = %s AND NOT archived""",
            (*placement_values(placement), self._number, archive_id),
        )

    def archive(self, archive_id: str, now_unix_ns: int) -> bool:
        """See `TurnWriter.archive`."""
        live = self._open().execute(
            """SELECT messages, started_unix_ns FROM turns
            WHERE tenant = %s AND archive_id = %s AND NOT archived""",
            (self._number, archive_id),
        )
        found = live.fetchone()
        if found is None:
            return False
        terms = document_terms(unpacked(text_of(found["messages"])), found["started_unix_ns"])
        doc = self._next("last_doc")
        self._open().execute(
            """UPDATE turns SET archived = true, archived_unix_ns = %s, doc = %s, num_terms = %s
            WHERE tenant = %s AND archive_id = %s""",
            (now_unix_ns, doc, len(terms), self._number, archive_id),
        )
        counted = Counter(terms)
        self._open().execute(
            """INSERT INTO postings SELECT %s, term, %s, occurrences
            FROM unnest(%s::bytea[], %s::integer[]) AS counted (term, occurrences)""",
            (self._number, doc, list(counted), list(counted.values())),
        )
        return True

    def store_memory(self, question: str, answer: str, now_unix_ns: int) -> str:
        """See `TurnWriter.store_memory`."""
        memory = stored_memory(self._tenant, question, answer, now_unix_ns)
        self._write(
            "DELETE FROM tombstones WHERE tenant = %s AND scope = 'turn' AND name = %s",
            memory.archive_id,
        )
        self._insert(memory)
        self.archive(memory.archive_id, now_unix_ns)
        return memory.archive_id

    def clear_memory(self, question: str) -> int:
        """See `TurnWriter.clear_memory`."""
        stored = self.session_turns(STORED_MEMORY_SESSION)
        doomed = [turn.archive_id for turn in stored if turn.question == question]
        return remove_turns(self._open(), self._number, doomed).turns

    def recalled(self, archive_ids: Iterable[str], now_unix_ns: int) -> None:
        """See `TurnWriter.recalled`."""
        self._open().execute(
            """UPDATE turns SET used_unix_ns = greatest(used_unix_ns, %s)
            WHERE tenant = %s AND archive_id = ANY(%s::bytea[])""",
            (now_unix_ns, self._number, list(archive_ids)),
        )

    def add_notice(self, notice: Notice) -> None:
        """See `NoticeWriter.add_notice`."""
        known = "SELECT 1 AS known FROM notices WHERE tenant = %s AND notice_id = %s"
        if self._first(known, notice.notice_id) is not None:
            return
        position = self._next("last_notice")
        self._open().execute(
            "INSERT INTO notices VALUES (%s, %s, %s, %s, false, %s, %s, %s, %s, %s)",
            (
                *(self._number, position, notice.notice_id, notice.session_id),
                *(list(notice.turns), list(notice.archive_ids), notice.topic, notice.text),
                notice.created_unix_ns,
            ),
        )

    def acknowledge(self, notice_id: str) -> bool:
        """See `NoticeWriter.acknowledge`."""
        heard = "UPDATE notices SET acknowledged = true WHERE tenant = %s AND notice_id = %s"
        return self._write(heard, notice_id) > 0

    def set_fact(self, key: str, value: str, now_unix_ns: int) -> None:
        """See `FactWriter.set_fact`."""
        connection = self._open()
        now = connection.execute(
            "SELECT value FROM facts WHERE tenant = %s AND key = %s AND ended_unix_ns = 0",
            (self._number, key),
        ).fetchone()
        if now is not None and text_of(now["value"]) == value:
            return
        self._end_fact(key, now_unix_ns)
        connection.execute(
            "INSERT INTO facts (tenant, key, folded, value, set_unix_ns) VALUES (%s, %s, %s, %s, %s)",
            (self._number, key, fold_key(key), value, now_unix_ns),
        )

    def clear_fact(self, key: str, now_unix_ns: int) -> str | None:
        """See `FactWriter.clear_fact`."""
        values = {"tenant": self._number, "key": key, "folded": fold_key(key)}
        found = self._open().execute(FACT_NOW, values).fetchone()
        if found is None:
            return None
        spelt = text_of(found["key"])
        self._end_fact(spelt, now_unix_ns)
        return spelt

    def put_dead_letter(self, letter: DeadLetter) -> None:
        """See `StreamWriter.put_dead_letter`."""
        self._open().execute(
            """INSERT INTO dead_letters VALUES (%s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT (tenant, name) DO UPDATE
            SET reason = excluded.reason, attempts = dead_letters.attempts + 1""",
            (
                *(self._number, letter.name, letter.session, letter.reason, letter.payload),
                *(letter.created_unix_ns, letter.attempts),
            ),
        )

    def drop_dead_letter(self, name: str) -> bool:
        """See `StreamWriter.drop_dead_letter`."""
        return self._write("DELETE FROM dead_letters WHERE tenant = %s AND name = %s", name) > 0

    def position(self, name: str) -> Position | None:
        """See `StreamWriter.position`."""
        row = self._first("SELECT epoch, seq FROM positions WHERE tenant = %s AND name = %s", name)
        return None if row is None else Position(row["epoch"], row["seq"])

    def advance(self, name: str, position: Position) -> bool:
        """See `StreamWriter.advance`."""
        moved = self._open().execute(
            """INSERT INTO positions AS known VALUES (%s, %s, %s, %s) ON CONFLICT (tenant, name)
            DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq
            WHERE (excluded.epoch, excluded.seq) > (known.epoch, known.seq)""",
            (self._number, name, position.epoch, position.seq),
        )
        return moved.rowcount > 0

    def put_vectors(self, model: str, vectors: Iterable[StoredVectors]) -> None:
        """See `VectorWriter.put_vectors`."""
        for each in vectors:
            number = self._next("last_vectors")
            self._open().execute(
                """INSERT INTO vectors SELECT tenant, doc, %s, %s, %s FROM turns
                WHERE tenant = %s AND doc = %s ON CONFLICT (tenant, doc) DO UPDATE
                SET number = excluded.number, model = excluded.model, vectors = excluded.vectors""",
                (number, model, each.vectors, self._number, each.doc),
            )

    def _insert(self, turn: StoredTurn) -> None:
        values = (self._number, *turn_values(turn))
        self._open().execute(
            f"""INSERT INTO turns (tenant, {TURN_COLUMNS}) VALUES ({_marks(values)})
            ON CONFLICT (tenant, archive_id) DO NOTHING""",  # noqa: S608  constants only
            values,
        )

    def _is_erased(self, turn: StoredTurn) -> bool:
        found = self._open().execute(
            """SELECT 1 FROM tombstones WHERE tenant = %(tenant)s AND (
                (scope = 'turn' AND name = %(id)s)
                OR (scope = 'session' AND name = %(session)s AND erased_unix_ns >= %(started)s)
                OR (scope = 'tenant' AND name = '' AND erased_unix_ns >= %(started)s))""",
            {
                "tenant": self._number,
                "id": turn.archive_id,
                "session": session_name(turn.session),
                "started": turn.started_unix_ns,
            },
        )
        return found.fetchone() is not None

    def _end_fact(self, key: str, now_unix_ns: int) -> None:
        self._open().execute(
            """UPDATE facts SET ended_unix_ns = %s
            WHERE tenant = %s AND key = %s AND ended_unix_ns = 0""",
            (now_unix_ns, self._number, key),
        )

    def _turns(self, where: str, **values: object) -> Iterator[StoredTurn]:
        return select_turns(self._open(), where, {"tenant": self._number, **values})

    def _first(self, statement: str, *values: object) -> DictRow | None:
        """The first row of a query whose first value is the tenant."""
        return self._open().execute(statement, (self._number, *values)).fetchone()

    def _write(self, statement: str, *values: object) -> int:
        """How many rows a statement changed whose first value is the tenant."""
        return self._open().execute(statement, (self._number, *values)).rowcount

    def _next(self, counter: str) -> int:
        """The tenant's next number of a kind, never given twice."""
        row = self._open().execute(
            f"""UPDATE tenants SET {counter} = {counter} + 1 WHERE tenant = %s
            RETURNING {counter} AS next""",  # noqa: S608  constants only
            (self._number,),
        )
        found = row.fetchone()
        assert found is not None, "a tenant's row is never removed"
        return int(found["next"])


def _marks(values: Sequence[object]) -> str:
    return ", ".join(["%s"] * len(values))
