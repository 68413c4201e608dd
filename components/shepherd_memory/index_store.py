"""The block index, the streams' positions and the ends of sessions, so that a restart resumes.

One transaction per applied batch, after the tenants' commits: the file may lag
behind the archives, never run ahead of them, and what it lacks is replayed by
the streams.  `synchronous=NORMAL` is enough for that: a power failure may take
the last transactions, but always block by block and position together.

Tokens are packed as native 32-bit words; SQLite's integers are signed, so that
hashes are stored modulo 2**64.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from shepherd_events.events import BlockHash, StreamId, Tier
from shepherd_events.stream_cursor import Position
from shepherd_memory.archive.availability import available
from shepherd_memory.archive.sqlite_file import open_database
from shepherd_memory.block_index import BlockIndex, BlockRecord, Holder
from shepherd_memory.eviction import TurnKey

_SCHEMA = """
CREATE TABLE streams (
    stream INTEGER PRIMARY KEY,
    worker_id TEXT NOT NULL,
    dp_rank INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    UNIQUE (worker_id, dp_rank)
);
CREATE TABLE blocks (
    hash INTEGER PRIMARY KEY,
    parent INTEGER NOT NULL,
    start INTEGER NOT NULL,
    tokens BLOB NOT NULL
);
CREATE TABLE holders (
    hash INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    tier INTEGER NOT NULL,
    PRIMARY KEY (hash, stream, tier)
) WITHOUT ROWID;
"""
_ENDED = """CREATE TABLE IF NOT EXISTS ended_turns (
    tenant TEXT NOT NULL,
    archive_id TEXT NOT NULL,
    PRIMARY KEY (tenant, archive_id)
) WITHOUT ROWID"""
"""Came later than the first files of this version, and harms no program that does not know it."""

_MIGRATIONS = (_SCHEMA,)


class IndexStore:
    """`index.db`; writer thread only."""

    def __init__(self, path: Path) -> None:
        """Open the file and look at its version.

        Raises:
            SchemaVersionError: a later program wrote the file.
        """
        self._path = path
        self._connection = open_database(path, _MIGRATIONS, synchronous="NORMAL")
        self._connection.execute(_ENDED)
        self._ended: set[TurnKey] = set()

    def load(self) -> tuple[BlockIndex, dict[StreamId, Position], set[TurnKey]]:
        """What the last committed batch left."""
        index = BlockIndex()
        positions: dict[StreamId, Position] = {}
        names: dict[int, StreamId] = {}
        for number, worker_id, dp_rank, epoch, seq in self._connection.execute(
            "SELECT stream, worker_id, dp_rank, epoch, seq FROM streams"
        ):
            names[number] = StreamId(worker_id, dp_rank)
            positions[names[number]] = Position(epoch, seq)
        holders: dict[int, list[Holder]] = {}
        for signed, number, tier in self._connection.execute("SELECT * FROM holders"):
            holders.setdefault(signed, []).append((names[number], Tier(tier)))
        for signed, parent, start, tokens in self._connection.execute("SELECT * FROM blocks"):
            index.restore(
                BlockRecord(
                    block_hash=BlockHash(_unsigned(signed)),
                    parent=BlockHash(_unsigned(parent)) if parent else None,
                    start=start,
                    tokens=tokens,
                    holders=frozenset(holders[signed]),
                )
            )
        ended = self._connection.execute("SELECT tenant, archive_id FROM ended_turns")
        self._ended = {TurnKey(*row) for row in ended}
        return index, positions, set(self._ended)

    def save(
        self, index: BlockIndex, positions: Mapping[StreamId, Position], ended: set[TurnKey]
    ) -> None:
        """Commit what the index has touched since the last call, and where all streams stand.

        `ended` are the newest turns of the sessions that have ended.
        """
        touched = index.take_touched()
        with available(self._path), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._drop(touched)
            numbers = self._save_positions(positions)
            for block_hash in touched:
                record = index.record(block_hash)
                if record is not None:
                    self._put(record, numbers)
            self._save_ended(ended)
        self._ended = set(ended)

    def close(self) -> None:
        """Let go of the file; idempotent."""
        self._connection.close()

    def _drop(self, hashes: Iterable[BlockHash]) -> None:
        rows = [(_signed(block_hash),) for block_hash in hashes]
        self._connection.executemany("DELETE FROM blocks WHERE hash = ?", rows)
        self._connection.executemany("DELETE FROM holders WHERE hash = ?", rows)

    def _put(self, record: BlockRecord, numbers: Mapping[StreamId, int]) -> None:
        signed = _signed(record.block_hash)
        parent = _signed(record.parent) if record.parent else 0
        self._connection.execute(
            "INSERT INTO blocks VALUES (?, ?, ?, ?)", (signed, parent, record.start, record.tokens)
        )
        self._connection.executemany(
            "INSERT INTO holders VALUES (?, ?, ?)",
            [(signed, numbers[stream], tier) for stream, tier in record.holders],
        )

    def _save_ended(self, ended: set[TurnKey]) -> None:
        self._connection.executemany(
            "DELETE FROM ended_turns WHERE tenant = ? AND archive_id = ?", self._ended - ended
        )
        self._connection.executemany("INSERT INTO ended_turns VALUES (?, ?)", ended - self._ended)

    def _save_positions(self, positions: Mapping[StreamId, Position]) -> dict[StreamId, int]:
        known = {
            StreamId(worker_id, dp_rank): number
            for number, worker_id, dp_rank in self._connection.execute(
                "SELECT stream, worker_id, dp_rank FROM streams"
            )
        }
        for stream in known.keys() - positions.keys():
            self._connection.execute("DELETE FROM streams WHERE stream = ?", (known[stream],))
        self._connection.executemany(
            """INSERT INTO streams (worker_id, dp_rank, epoch, seq) VALUES (?, ?, ?, ?)
            ON CONFLICT DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq""",
            [
                (stream.worker_id, stream.dp_rank, at.epoch, at.seq)
                for stream, at in positions.items()
            ],
        )
        return {
            StreamId(worker_id, dp_rank): number
            for worker_id, dp_rank, number in self._connection.execute(
                "SELECT worker_id, dp_rank, stream FROM streams"
            )
        }


def _signed(block_hash: int) -> int:
    return block_hash - (1 << 64) if block_hash >= 1 << 63 else block_hash


def _unsigned(signed: int) -> int:
    return signed + (1 << 64) if signed < 0 else signed
