"""What is put into memory by hand, as the archived turn that it becomes."""

from __future__ import annotations

from array import array

from shepherd_events.events import StreamId
from shepherd_events.stream_cursor import Position
from shepherd_memory.archive.records import STORED_MEMORY_SESSION, StoredTurn
from shepherd_memory.eviction import Placement
from shepherd_memory.turns import Said, archive_id_of, digest_of


def stored_memory(tenant: str, question: str, answer: str, now_unix_ns: int) -> StoredTurn:
    """A live turn without KV; the same words have the same archive id whenever they are stored."""
    messages = (Said("user", question), Said("assistant", answer))
    digest = digest_of(messages)
    return StoredTurn(
        archive_id=archive_id_of(tenant, STORED_MEMORY_SESSION, 0, digest),
        session=STORED_MEMORY_SESSION,
        ordinal=0,
        digest=digest,
        messages=messages,
        placement=Placement(StreamId(""), Position(0, 0), now_unix_ns, array("Q")),
        request_id="",
        started_unix_ns=now_unix_ns,
    )
