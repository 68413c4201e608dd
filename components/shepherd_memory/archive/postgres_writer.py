"""The writes of one transaction on a tenant's rows in the shared tables.

Statements only: what they are for stands at `ArchiveWriter`.  Turns and notices
are written together when the transaction ends, the rest at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from psycopg.rows import DictRow

from shepherd_events.events import Notice
from shepherd_events.stream_cursor import Position
from shepherd_memory.archive.postgres_arrays import Integers, Strings
from shepherd_memory.archive.postgres_nearness import PostgresNearness
from shepherd_memory.archive.postgres_pool import Connection, text_of
from shepherd_memory.archive.postgres_turns import PostgresTurnWriter
from shepherd_memory.archive.records import DeadLetter, Heard, StoredVectors
from shepherd_memory.facts import fold_key

FACT_NOW = """SELECT key, value, set_unix_ns, ended_unix_ns FROM facts
    WHERE tenant = %(tenant)s AND ended_unix_ns = 0 AND (key = %(key)s OR folded = %(folded)s)
    ORDER BY key = %(key)s DESC, set_unix_ns DESC, row DESC LIMIT 1"""


_PUT_VECTORS = """INSERT INTO vectors (tenant, doc, number, model, vectors)
    SELECT tenant, turns.doc, new.number, %(model)s, new.vectors
    FROM unnest(%(docs)s, %(numbers)s, %(vectors)s) AS new (doc, number, vectors)
    JOIN turns ON turns.tenant = %(tenant)s AND turns.doc = new.doc
    ON CONFLICT (tenant, doc) DO UPDATE
    SET number = excluded.number, model = excluded.model, vectors = excluded.vectors"""


class PostgresArchiveWriter(PostgresTurnWriter):
    """`ArchiveWriter` over a connection inside its transaction; `flush` before the commit."""

    def __init__(
        self,
        open_: Callable[[], Connection],
        tenant: str,
        number: int,
        nearness: PostgresNearness | None,
    ) -> None:
        """`open_` gives the transaction's connection, which speaks for this tenant then."""
        super().__init__(open_, tenant, number)
        self._nearness = nearness
        self._notices: dict[str, Notice] = {}
        """Not written yet, by id."""

    def add_notice(self, notice: Notice) -> None:
        """See `NoticeWriter.add_notice`."""
        self._notices.setdefault(notice.notice_id, notice)

    def acknowledge(self, notice_id: str) -> Heard | None:
        """See `NoticeWriter.acknowledge`."""
        self.flush()
        row = self._first(
            "SELECT created_unix_ns, acknowledged FROM notices "
            "WHERE tenant = %s AND notice_id = %s FOR UPDATE",
            notice_id,
        )
        if row is None:
            return None
        if not row["acknowledged"]:
            heard = "UPDATE notices SET acknowledged = true WHERE tenant = %s AND notice_id = %s"
            self._changes(heard, notice_id)
        return Heard(row["created_unix_ns"], is_first=not row["acknowledged"])

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
        return self._changes("DELETE FROM dead_letters WHERE tenant = %s AND name = %s", name)

    def position(self, name: str) -> Position | None:
        """See `StreamWriter.position`."""
        row = self._first("SELECT epoch, seq FROM positions WHERE tenant = %s AND name = %s", name)
        return None if row is None else Position(row["epoch"], row["seq"])

    def advance(self, name: str, position: Position) -> bool:
        """See `StreamWriter.advance`."""
        moved = """INSERT INTO positions AS known VALUES (%s, %s, %s, %s)
            ON CONFLICT (tenant, name) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq
            WHERE (excluded.epoch, excluded.seq) > (known.epoch, known.seq)"""
        return self._changes(moved, name, position.epoch, position.seq)

    def put_vectors(self, model: str, vectors: Iterable[StoredVectors]) -> None:
        """See `VectorWriter.put_vectors`."""
        latest = {each.doc: each.vectors for each in vectors}
        if not latest:
            return
        self.flush()
        values = {
            "tenant": self._number,
            "model": model,
            "numbers": Integers(self.next_numbers("last_vectors", len(latest))),
            "docs": Integers(list(latest)),
            "vectors": Strings(list(latest.values())),
        }
        if self._nearness is None:
            self._open().execute(_PUT_VECTORS, values)
        else:
            self._nearness.put(self._open(), model, list(latest.values()), values)

    def flush(self) -> None:
        """Write what has changed so far."""
        super().flush()
        self._flush_notices()

    def _flush_notices(self) -> None:
        if not self._notices:
            return
        known = self._open().execute(
            "SELECT notice_id FROM notices WHERE tenant = %s AND notice_id = ANY(%s::bytea[])",
            (self._number, list(self._notices)),
        )
        for row in known:
            del self._notices[text_of(row["notice_id"])]
        positions = self.next_numbers("last_notice", len(self._notices))
        rows = [
            (
                *(self._number, position, notice.notice_id, notice.session_id),
                *(list(notice.turns), list(notice.archive_ids), notice.topic, notice.text),
                notice.created_unix_ns,
            )
            for position, notice in zip(positions, self._notices.values(), strict=True)
        ]
        with self._open().cursor() as cursor:
            cursor.executemany(
                "INSERT INTO notices VALUES (%s, %s, %s, %s, false, %s, %s, %s, %s, %s)", rows
            )
        self._notices.clear()

    def _end_fact(self, key: str, now_unix_ns: int) -> None:
        self._open().execute(
            """UPDATE facts SET ended_unix_ns = %s
            WHERE tenant = %s AND key = %s AND ended_unix_ns = 0""",
            (now_unix_ns, self._number, key),
        )

    def _first(self, statement: str, *values: object) -> DictRow | None:
        """The first row of a query whose first value is the tenant."""
        return self._open().execute(statement, (self._number, *values)).fetchone()

    def _changes(self, statement: str, *values: object) -> bool:
        """Whether a statement changed a row whose first value is the tenant."""
        return self._first(f"{statement} RETURNING true AS changed", *values) is not None
