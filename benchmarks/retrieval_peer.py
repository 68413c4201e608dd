"""The peer: a memory of keywords in one SQLite file for everybody, as it was written.

The design that this service goes back to, re-implemented from its description: question
and answer as two columns of one FTS5 index, no stemming, eighteen stop words, OR, BM25
times a factor that grows with age (which, BM25 being negative in SQLite, puts the oldest
first), all users in one index and filtered afterwards.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from shepherd_memory.archive.records import StoredTurn

_STOP_WORDS = frozenset(
    "and or the a an of to for in on at is are was were be been being".split()  # noqa: SIM905  reads better
)


class KeywordMemory:
    """One file, all users."""

    def __init__(self, path: Path, now_s: Callable[[], float] = time.time) -> None:
        self._now_s = now_s
        self._path = path
        self._connection = sqlite3.connect(path)
        self._connection.executescript(
            """PRAGMA journal_mode = WAL;
            CREATE TABLE context (id INTEGER PRIMARY KEY AUTOINCREMENT, user_message TEXT,
                assistant_response TEXT, timestamp INTEGER, content_hash TEXT UNIQUE,
                user_id TEXT DEFAULT 'local', archive_id TEXT);
            CREATE INDEX by_user ON context (user_id);
            CREATE VIRTUAL TABLE context_fts USING fts5 (user_message, assistant_response,
                content='context', content_rowid='id');
            CREATE TRIGGER added AFTER INSERT ON context BEGIN
                INSERT INTO context_fts (rowid, user_message, assistant_response)
                VALUES (new.id, new.user_message, new.assistant_response);
            END;"""
        )

    def archive(self, user: str, turn: StoredTurn) -> None:
        """One turn, one transaction; words that anybody stored before are dropped."""
        self.archive_together(user, [turn])

    def archive_all(self, user: str, turns: Sequence[StoredTurn]) -> None:
        """Turn by turn, as it does."""
        for turn in turns:
            self.archive(user, turn)

    def archive_together(self, user: str, turns: Sequence[StoredTurn]) -> None:
        """In one transaction, which it never does: to fill it quickly."""
        with self._connection:
            self._connection.executemany(
                """INSERT OR IGNORE INTO context (user_message, assistant_response, timestamp,
                content_hash, user_id, archive_id) VALUES (?, ?, ?, ?, ?, ?)""",
                [_row(user, turn) for turn in turns],
            )

    def search(self, user: str, query: str, limit: int) -> list[str]:
        """Archive ids, best first."""
        words = [word for word in query.split() if word.lower() not in _STOP_WORDS]
        if not words:
            return []
        terms = " OR ".join('"' + word.replace('"', "") + '"' for word in words)
        rows = self._connection.execute(
            """SELECT archive_id FROM context_fts JOIN context ON context.id = context_fts.rowid
            WHERE context_fts MATCH ? AND user_id = ?
            ORDER BY bm25(context_fts) * (1 + (? - timestamp) / 86400.0 / 30) LIMIT ?""",
            (terms, user, self._now_s(), limit),
        )
        return [row[0] for row in rows]

    def size_bytes(self) -> int:
        """On disk."""
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return self._path.stat().st_size


def _row(user: str, turn: StoredTurn) -> tuple[object, ...]:
    question, answer = ([said.text for said in turn.messages] + ["", ""])[:2]
    digest = hashlib.sha256((question + answer).encode()).hexdigest()
    return (question, answer, turn.started_unix_ns // 10**9, digest, user, turn.archive_id)
