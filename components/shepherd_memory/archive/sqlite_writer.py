"""The writes of one transaction on a tenant's file.

Statements only: what they are for stands at `ArchiveWriter`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable

from shepherd_events.events import Notice
from shepherd_events.stream_cursor import Position
from shepherd_memory.archive.records import (
    STORED_MEMORY_SESSION,
    DeadLetter,
    Heard,
    NoticeState,
    StoredTurn,
    StoredVectors,
)
from shepherd_memory.archive.sqlite_erasure import doom, remove_doomed, session_name
from shepherd_memory.archive.sqlite_rows import (
    TURN_COLUMNS,
    placement_values,
    select_turns,
    turn_values,
    unpacked,
)
from shepherd_memory.archive.sqlite_schema import add_document
from shepherd_memory.archive.stored_memory import stored_memory
from shepherd_memory.eviction import Placement
from shepherd_memory.facts import fold_key

FACT_NOW = """SELECT key, value, set_unix_ns, ended_unix_ns FROM facts
    WHERE ended_unix_ns = 0 AND (key = :key OR folded = :folded)
    ORDER BY key = :key DESC, set_unix_ns DESC, row DESC LIMIT 1"""


class SqliteArchiveWriter:
    """`ArchiveWriter` over one connection inside its transaction."""

    def __init__(self, connection: sqlite3.Connection, tenant: str) -> None:
        self._connection = connection
        self._tenant = tenant

    def expect(self, archive_ids: Iterable[str]) -> None:
        """See `TurnWriter.expect`; a file is asked turn by turn."""

    def session_turns(self, session: str) -> list[StoredTurn]:
        """See `TurnWriter.session_turns`."""
        where = "WHERE session = ? ORDER BY ordinal, started_unix_ns, archive_id"
        return list(select_turns(self._connection, where, (session,)))

    def turn(self, archive_id: str) -> StoredTurn | None:
        """See `TurnWriter.turn`."""
        return next(select_turns(self._connection, "WHERE archive_id = ?", (archive_id,)), None)

    def newest(self, session: str) -> str | None:
        """See `TurnWriter.newest`."""
        row = self._connection.execute(
            """SELECT archive_id FROM turns WHERE session = ?
            ORDER BY started_unix_ns DESC, ordinal DESC, archive_id DESC LIMIT 1""",
            (session,),
        ).fetchone()
        return None if row is None else str(row[0])

    def insert(self, turn: StoredTurn) -> bool:
        """See `TurnWriter.insert`."""
        if self._is_erased(turn):
            return False
        self._insert(turn)
        return True

    def supersede(self, archive_id: str) -> None:
        """See `TurnWriter.supersede`."""
        self._connection.execute(
            "DELETE FROM turns WHERE archive_id = ? AND state = 'live'", (archive_id,)
        )

    def place(self, archive_id: str, placement: Placement) -> None:
        """See `TurnWriter.place`."""
        self._connection.execute(
            """UPDATE turns SET worker_id = ?, dp_rank = ?, epoch = ?, seq = ?, placed_unix_ns = ?,
            block_hashes = ? WHERE archive_id = ? AND state = 'live'""",
            (*placement_values(placement), archive_id),
        )

    def archive(self, archive_id: str, now_unix_ns: int) -> bool:
        """See `TurnWriter.archive`."""
        changed = self._connection.execute(
            """UPDATE turns SET state = 'archived', archived_unix_ns = ?
            WHERE archive_id = ? AND state = 'live' RETURNING row, messages, started_unix_ns""",
            (now_unix_ns, archive_id),
        ).fetchone()
        if changed is None:
            return False
        row, messages, started_unix_ns = changed
        add_document(self._connection, row, unpacked(messages), started_unix_ns)
        return True

    def store_memory(self, question: str, answer: str, now_unix_ns: int) -> str:
        """See `TurnWriter.store_memory`."""
        memory = stored_memory(self._tenant, question, answer, now_unix_ns)
        self._connection.execute(
            "DELETE FROM tombstones WHERE scope = 'turn' AND name = ?", (memory.archive_id,)
        )
        self._insert(memory)
        self.archive(memory.archive_id, now_unix_ns)
        return memory.archive_id

    def clear_memory(self, question: str) -> int:
        """See `TurnWriter.clear_memory`."""
        stored = select_turns(self._connection, "WHERE session = ?", (STORED_MEMORY_SESSION,))
        doomed = [turn.archive_id for turn in stored if turn.question == question]
        doom(self._connection, doomed)
        return remove_doomed(self._connection).turns

    def recalled(self, archive_ids: Iterable[str], now_unix_ns: int) -> None:
        """See `TurnWriter.recalled`."""
        self._connection.executemany(
            "UPDATE turns SET used_unix_ns = max(used_unix_ns, ?) WHERE archive_id = ?",
            [(now_unix_ns, archive_id) for archive_id in archive_ids],
        )

    def add_notice(self, notice: Notice) -> None:
        """See `NoticeWriter.add_notice`."""
        self._connection.execute(
            """INSERT OR IGNORE INTO notices (notice_id, session, state, turns, archive_ids, topic,
            text, created_unix_ns) VALUES (?, ?, 'pending', ?, ?, ?, ?, ?)""",
            (
                *(notice.notice_id, notice.session_id, json.dumps(notice.turns)),
                *(json.dumps(notice.archive_ids), notice.topic, notice.text),
                notice.created_unix_ns,
            ),
        )

    def acknowledge(self, notice_id: str) -> Heard | None:
        """See `NoticeWriter.acknowledge`."""
        row = self._connection.execute(
            "SELECT created_unix_ns, state FROM notices WHERE notice_id = ?", (notice_id,)
        ).fetchone()
        if row is None:
            return None
        is_first = row["state"] != NoticeState.ACKNOWLEDGED
        if is_first:
            self._connection.execute(
                "UPDATE notices SET state = 'acknowledged' WHERE notice_id = ?", (notice_id,)
            )
        return Heard(row["created_unix_ns"], is_first)

    def set_fact(self, key: str, value: str, now_unix_ns: int) -> None:
        """See `FactWriter.set_fact`."""
        now = self._connection.execute(
            "SELECT value FROM facts WHERE key = ? AND ended_unix_ns = 0", (key,)
        ).fetchone()
        if now is not None and now[0] == value:
            return
        self._end_fact(key, now_unix_ns)
        self._connection.execute(
            "INSERT INTO facts (key, folded, value, set_unix_ns) VALUES (?, ?, ?, ?)",
            (key, fold_key(key), value, now_unix_ns),
        )

    def clear_fact(self, key: str, now_unix_ns: int) -> str | None:
        """See `FactWriter.clear_fact`."""
        found = self._connection.execute(FACT_NOW, {"key": key, "folded": fold_key(key)}).fetchone()
        if found is None:
            return None
        self._end_fact(found["key"], now_unix_ns)
        return str(found["key"])

    def put_dead_letter(self, letter: DeadLetter) -> None:
        """See `StreamWriter.put_dead_letter`."""
        self._connection.execute(
            """INSERT INTO dead_letters VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (name)
            DO UPDATE SET reason = excluded.reason, attempts = attempts + 1""",
            (
                *(letter.name, letter.session, letter.reason, letter.payload),
                *(letter.created_unix_ns, letter.attempts),
            ),
        )

    def drop_dead_letter(self, name: str) -> bool:
        """See `StreamWriter.drop_dead_letter`."""
        deleted = self._connection.execute("DELETE FROM dead_letters WHERE name = ?", (name,))
        return deleted.rowcount > 0

    def position(self, name: str) -> Position | None:
        """See `StreamWriter.position`."""
        row = self._connection.execute(
            "SELECT epoch, seq FROM positions WHERE name = ?", (name,)
        ).fetchone()
        return None if row is None else Position(*row)

    def advance(self, name: str, position: Position) -> bool:
        """See `StreamWriter.advance`."""
        moved = self._connection.execute(
            """INSERT INTO positions VALUES (?, ?, ?) ON CONFLICT (name)
            DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq
            WHERE (excluded.epoch, excluded.seq) > (epoch, seq)""",
            (name, position.epoch, position.seq),
        )
        return moved.rowcount > 0

    def put_vectors(self, model: str, vectors: Iterable[StoredVectors]) -> None:
        """See `VectorWriter.put_vectors`."""
        self._connection.executemany(
            """INSERT OR REPLACE INTO vectors (doc, model, vectors)
            SELECT doc, ?, ? FROM documents WHERE doc = ?""",
            [(model, each.vectors, each.doc) for each in vectors],
        )

    def _insert(self, turn: StoredTurn) -> None:
        values = turn_values(turn)
        marks = ", ".join("?" * len(values))
        self._connection.execute(
            f"INSERT OR IGNORE INTO turns ({TURN_COLUMNS}) VALUES ({marks})",  # noqa: S608  constants only
            values,
        )

    def _is_erased(self, turn: StoredTurn) -> bool:
        found = self._connection.execute(
            """SELECT 1 FROM tombstones WHERE (scope = 'turn' AND name = :id)
            OR (scope = 'session' AND name = :session AND erased_unix_ns >= :started)
            OR (scope = 'tenant' AND name = '' AND erased_unix_ns >= :started)""",
            {
                "id": turn.archive_id,
                "session": session_name(turn.session),
                "started": turn.started_unix_ns,
            },
        )
        return found.fetchone() is not None

    def _end_fact(self, key: str, now_unix_ns: int) -> None:
        self._connection.execute(
            "UPDATE facts SET ended_unix_ns = ? WHERE key = ? AND ended_unix_ns = 0",
            (now_unix_ns, key),
        )
