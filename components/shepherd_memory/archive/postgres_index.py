"""The block index, the streams' positions and the ends of sessions in PostgreSQL.

What one replica leaves there, the next goes on from: taking over is what a
restart is.  One transaction per applied batch, after that of the archives,
under the same lease; it does not wait for the disk, since it may lag behind the
archives and is never ahead of them in the log.  Hashes are stored modulo 2**64, signed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from shepherd_events.events import BlockHash, StreamId, Tier
from shepherd_events.stream_cursor import Position
from shepherd_memory.archive.postgres_pool import Connection, PostgresPool, text_of
from shepherd_memory.archive.postgres_speaker import STREAMS
from shepherd_memory.archive.postgres_transaction import Fence
from shepherd_memory.block_index import BlockIndex, BlockRecord, Holder
from shepherd_memory.eviction import TurnKey

_PUT_BLOCKS = """INSERT INTO blocks
    SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bytea[])"""
_PUT_HOLDERS = """INSERT INTO holders
    SELECT * FROM unnest(%s::bigint[], %s::bytea[], %s::bigint[], %s::bigint[])"""
_PUT_POSITIONS = """INSERT INTO streams
    SELECT * FROM unnest(%s::bytea[], %s::bigint[], %s::bigint[], %s::bigint[])
    ON CONFLICT (worker_id, dp_rank) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq"""


class PostgresIndex:
    """`StreamState` in the tables of the streams; writer thread only."""

    def __init__(self, pool: PostgresPool, fence: Fence) -> None:
        self._pool = pool
        self._fence = fence
        self._ended: set[TurnKey] = set()

    def load(self) -> tuple[BlockIndex, dict[StreamId, Position], set[TurnKey]]:
        """See `StreamState.load`."""
        with self._pool.transaction(STREAMS, is_snapshot=True) as connection:
            positions = _positions(connection)
            index = _index(connection)
            ended = connection.execute("SELECT tenant, archive_id FROM ended_turns").fetchall()
        self._ended = {TurnKey(text_of(row["tenant"]), text_of(row["archive_id"])) for row in ended}
        return index, positions, set(self._ended)

    def save(
        self, index: BlockIndex, positions: Mapping[StreamId, Position], ended: set[TurnKey]
    ) -> None:
        """See `StreamState.save`."""
        touched = list(index.take_touched())
        records = [record for each in touched if (record := index.record(each)) is not None]
        with self._pool.pipelined(STREAMS) as connection:
            connection.execute("SET LOCAL synchronous_commit = off")
            self._fence(connection)
            hashes = list(map(_signed, touched))
            for table in ("blocks", "holders"):
                connection.execute(f"DELETE FROM {table} WHERE hash = ANY(%s::bigint[])", (hashes,))  # noqa: S608  constants only
            _put(connection, records)
            _save_positions(connection, positions)
            self._save_ended(connection, ended)
        self._ended = set(ended)

    def close(self) -> None:
        """See `StreamState.close`; nothing is open here."""

    def _save_ended(self, connection: Connection, ended: set[TurnKey]) -> None:
        for gone in self._ended - ended:
            connection.execute(
                "DELETE FROM ended_turns WHERE tenant = %s AND archive_id = %s",
                (gone.tenant, gone.archive_id),
            )
        for new in ended - self._ended:
            connection.execute(
                "INSERT INTO ended_turns VALUES (%s, %s)", (new.tenant, new.archive_id)
            )


def _positions(connection: Connection) -> dict[StreamId, Position]:
    rows = connection.execute("SELECT worker_id, dp_rank, epoch, seq FROM streams").fetchall()
    return {
        StreamId(text_of(row["worker_id"]), row["dp_rank"]): Position(row["epoch"], row["seq"])
        for row in rows
    }


def _index(connection: Connection) -> BlockIndex:
    holders: dict[int, list[Holder]] = {}
    for row in connection.execute("SELECT hash, worker_id, dp_rank, tier FROM holders"):
        holder = StreamId(text_of(row["worker_id"]), row["dp_rank"]), Tier(row["tier"])
        holders.setdefault(row["hash"], []).append(holder)
    index = BlockIndex()
    for row in connection.execute("SELECT hash, parent, start, tokens FROM blocks"):
        index.restore(
            BlockRecord(
                block_hash=BlockHash(_unsigned(row["hash"])),
                parent=BlockHash(_unsigned(row["parent"])) if row["parent"] else None,
                start=row["start"],
                tokens=row["tokens"],
                holders=frozenset(holders[row["hash"]]),
            )
        )
    return index


def _put(connection: Connection, records: Iterable[BlockRecord]) -> None:
    blocks = [
        (_signed(each.block_hash), _signed(each.parent or 0), each.start, each.tokens)
        for each in records
    ]
    held = [
        (_signed(each.block_hash), stream.worker_id, stream.dp_rank, int(tier))
        for each in records
        for stream, tier in each.holders
    ]
    if blocks:
        connection.execute(_PUT_BLOCKS, _columns(blocks))
    if held:
        connection.execute(_PUT_HOLDERS, _columns(held))


def _save_positions(connection: Connection, positions: Mapping[StreamId, Position]) -> None:
    for gone in _positions(connection).keys() - positions.keys():
        connection.execute(
            "DELETE FROM streams WHERE worker_id = %s AND dp_rank = %s",
            (gone.worker_id, gone.dp_rank),
        )
    rows = [
        (stream.worker_id, stream.dp_rank, at.epoch, at.seq) for stream, at in positions.items()
    ]
    if rows:
        connection.execute(_PUT_POSITIONS, _columns(rows))


def _columns(rows: Iterable[tuple[object, ...]]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _signed(block_hash: int) -> int:
    return block_hash - (1 << 64) if block_hash >= 1 << 63 else block_hash


def _unsigned(signed: int) -> int:
    return signed + (1 << 64) if signed < 0 else signed
