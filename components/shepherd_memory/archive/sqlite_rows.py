"""Rows of a tenant's file, and the records that they are.

Block hashes are packed as native 64-bit words: a file is read on the machine
architecture that wrote it.
"""

from __future__ import annotations

import json
import sqlite3
from array import array
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from shepherd_events.events import Notice, StreamId
from shepherd_events.stream_cursor import Position
from shepherd_memory.archive.records import (
    DeadLetter,
    NoticeState,
    Postings,
    StoredNotice,
    StoredTurn,
    TurnState,
)
from shepherd_memory.eviction import Placement
from shepherd_memory.turns import Said

Values = Iterable[Any] | dict[str, Any]

TURN_COLUMNS = """archive_id, session, ordinal, digest, messages, state, request_id,
    started_unix_ns, archived_unix_ns, worker_id, dp_rank, epoch, seq, placed_unix_ns,
    block_hashes"""
NOTICE_COLUMNS = """position, notice_id, session, state, turns, archive_ids, topic, text,
    created_unix_ns"""


def select_turns(
    connection: sqlite3.Connection, where: str, values: Values = ()
) -> Iterator[StoredTurn]:
    """The turns that a constant condition describes."""
    parameters = values if isinstance(values, dict) else tuple(values)
    statement = f"SELECT {TURN_COLUMNS} FROM turns {where}"  # noqa: S608  constants only
    return map(turn_of, connection.execute(statement, parameters))


def turn_of(row: sqlite3.Row) -> StoredTurn:
    """A row with `TURN_COLUMNS` as a record."""
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
        messages=unpacked(row["messages"]),
        placement=placement,
        request_id=row["request_id"],
        started_unix_ns=row["started_unix_ns"],
        state=TurnState(row["state"]),
        archived_unix_ns=row["archived_unix_ns"],
    )


def turn_values(turn: StoredTurn) -> tuple[object, ...]:
    """A record in the order of `TURN_COLUMNS`."""
    return (
        *(turn.archive_id, turn.session, turn.ordinal, turn.digest, packed(turn.messages)),
        *(turn.state, turn.request_id, turn.started_unix_ns, turn.archived_unix_ns),
        *placement_values(turn.placement),
    )


def placement_values(placement: Placement) -> tuple[object, ...]:
    """Where KV lies, in the order of the columns."""
    stream, position = placement.stream, placement.position
    return (
        *(stream.worker_id, stream.dp_rank, position.epoch, position.seq),
        *(placement.started_unix_ns, placement.block_hashes.tobytes()),
    )


def notice_of_row(row: sqlite3.Row, tenant: str) -> StoredNotice:
    """A row of the outbox as a record."""
    notice = Notice(
        notice_id=row["notice_id"],
        tenant=tenant,
        session_id=row["session"],
        turns=tuple(json.loads(row["turns"])),
        archive_ids=tuple(json.loads(row["archive_ids"])),
        topic=row["topic"],
        text=row["text"],
        created_unix_ns=row["created_unix_ns"],
    )
    return StoredNotice(row["position"], notice, NoticeState(row["state"]))


def postings_of(term: str, places: str) -> Postings:
    """Of the documents of all places where a term stands, ascending, as `7,7,12`."""
    each = np.fromstring(places, np.int64, sep=",")
    first = np.flatnonzero(np.diff(each, prepend=-1))
    docs, occurrences = array("q"), array("q")
    docs.frombytes(each[first].tobytes())
    occurrences.frombytes(np.diff(first, append=len(each)).tobytes())
    return Postings(term, docs, occurrences)


def dead_letter_of(row: sqlite3.Row) -> DeadLetter:
    """A row of `dead_letters` as a record."""
    return DeadLetter(**dict(row))


def packed(messages: Iterable[Said]) -> str:
    """Messages as they are stored: JSON, so that every text can be."""
    return json.dumps([[said.role, said.text] for said in messages])


def unpacked(messages: str) -> tuple[Said, ...]:
    """What `packed` wrote."""
    return tuple(Said(role, text) for role, text in json.loads(messages))
