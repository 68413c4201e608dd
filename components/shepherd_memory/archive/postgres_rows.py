"""Rows of the shared tables, and the records that they are.

Block hashes are packed as native 64-bit words: all replicas are of one byte
order.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Any

from psycopg.rows import DictRow

from shepherd_events.events import Notice, StreamId
from shepherd_events.stream_cursor import Position
from shepherd_memory.archive.postgres_pool import Connection, text_of
from shepherd_memory.archive.records import (
    DeadLetter,
    Fact,
    NoticeState,
    SessionSummary,
    StoredNotice,
    StoredTurn,
    TurnState,
)
from shepherd_memory.archive.sqlite_rows import unpacked
from shepherd_memory.eviction import Placement

TURN_COLUMNS = """archive_id, session, ordinal, digest, messages, archived, request_id,
    started_unix_ns, archived_unix_ns, worker_id, dp_rank, epoch, seq, placed_unix_ns,
    block_hashes"""
NOTICE_COLUMNS = """position, notice_id, session, acknowledged, turns, archive_ids, topic, text,
    created_unix_ns"""


def select_turns(
    connection: Connection, where: str, values: dict[str, Any]
) -> Iterator[StoredTurn]:
    """The turns that a constant condition describes, beside being the tenant's."""
    statement = f"SELECT {TURN_COLUMNS} FROM turns WHERE tenant = %(tenant)s {where}"  # noqa: S608  constants only
    return map(turn_of, connection.execute(statement, values).fetchall())


def turn_of(row: DictRow) -> StoredTurn:
    """A row with `TURN_COLUMNS` as a record."""
    placement = Placement(
        stream=StreamId(text_of(row["worker_id"]), row["dp_rank"]),
        position=Position(row["epoch"], row["seq"]),
        started_unix_ns=row["placed_unix_ns"],
        block_hashes=array("Q", row["block_hashes"]),
    )
    return StoredTurn(
        archive_id=text_of(row["archive_id"]),
        session=text_of(row["session"]),
        ordinal=row["ordinal"],
        digest=text_of(row["digest"]),
        messages=unpacked(text_of(row["messages"])),
        placement=placement,
        request_id=text_of(row["request_id"]),
        started_unix_ns=row["started_unix_ns"],
        state=TurnState.ARCHIVED if row["archived"] else TurnState.LIVE,
        archived_unix_ns=row["archived_unix_ns"],
    )


def notice_of_row(row: DictRow, tenant: str) -> StoredNotice:
    """A row of the outbox as a record."""
    notice = Notice(
        notice_id=text_of(row["notice_id"]),
        tenant=tenant,
        session_id=text_of(row["session"]),
        turns=tuple(row["turns"]),
        archive_ids=tuple(map(text_of, row["archive_ids"])),
        topic=text_of(row["topic"]),
        text=text_of(row["text"]),
        created_unix_ns=row["created_unix_ns"],
    )
    state = NoticeState.ACKNOWLEDGED if row["acknowledged"] else NoticeState.PENDING
    return StoredNotice(row["position"], notice, state)


def fact_of(row: DictRow) -> Fact:
    """A row of `facts` as a record."""
    return Fact(
        text_of(row["key"]), text_of(row["value"]), row["set_unix_ns"], row["ended_unix_ns"]
    )


def dead_letter_of(row: DictRow) -> DeadLetter:
    """A row of `dead_letters` as a record."""
    return DeadLetter(
        name=text_of(row["name"]),
        session=text_of(row["session"]),
        reason=text_of(row["reason"]),
        payload=row["payload"],
        created_unix_ns=row["created_unix_ns"],
        attempts=row["attempts"],
    )


def summary_of(row: DictRow) -> SessionSummary:
    """A row of grouped turns as a record."""
    return SessionSummary(text_of(row["session"]), row["live"], row["archived"], row["last"])
