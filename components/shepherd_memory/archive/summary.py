"""A stretch of a conversation in a few words, as the archived item that it becomes."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import sha256

from shepherd_events.events import StreamId
from shepherd_events.stream_cursor import Position
from shepherd_memory.archive.protocol import Archive
from shepherd_memory.archive.records import Erased, StoredTurn
from shepherd_memory.eviction import Placement
from shepherd_memory.turns import Said, archive_id_of

ROLE = "summary"


def summary_of(tenant: str, stretch: Sequence[StoredTurn], text: str) -> StoredTurn:
    """A stretch's summary, as a live turn without KV; said when the last of its turns began."""
    digest = sha256("".join(each.archive_id for each in stretch).encode()).hexdigest()
    started = max(each.started_unix_ns for each in stretch)
    return StoredTurn(
        archive_id=archive_id_of(tenant, stretch[-1].session, 0, digest),
        session=stretch[-1].session,
        ordinal=0,
        digest=digest,
        messages=(Said(ROLE, text),),
        placement=Placement(StreamId(""), Position(0, 0), started, array("Q")),
        request_id="",
        started_unix_ns=started,
    )


def erase_with_summaries(archive: Archive, archive_id: str, now_unix_ns: int) -> Erased:
    """Erase a turn, and what tells of it in other words: the summaries of its session."""
    with archive.writing() as writer:
        turn = writer.turn(archive_id)
    erased = Erased()
    if turn is not None and turn.ordinal:
        for each in archive.turns(turn.session, after=-1, limit=1):
            if each.messages and each.messages[0].role == ROLE:
                erased += archive.erase_turn(each.archive_id, now_unix_ns)
    return erased + archive.erase_turn(archive_id, now_unix_ns)
