"""Turns and notices to fill an archive with."""

from __future__ import annotations

from array import array

from shepherd_events.events import Notice, StreamId
from shepherd_events.stream_cursor import Position
from shepherd_memory.archive.protocol import Archives
from shepherd_memory.archive.records import StoredTurn
from shepherd_memory.eviction import Placement
from shepherd_memory.turns import Said, archive_id_of, digest_of

BIGGEST_HASH = 2**64 - 1


def a_turn(
    ordinal: int,
    question: str = "why",
    answer: str = "because",
    *,
    session: str = "s",
    started: int | None = None,
    tenant: str = "t",
) -> StoredTurn:
    messages = (Said("user", question), Said("assistant", answer))
    digest = digest_of(messages)
    started = ordinal if started is None else started
    return StoredTurn(
        archive_id=archive_id_of(tenant, session, ordinal, digest),
        session=session,
        ordinal=ordinal,
        digest=digest,
        messages=messages,
        placement=Placement(
            StreamId("w", 3), Position(7, 8), started, array("Q", [1, BIGGEST_HASH])
        ),
        request_id=f"r{ordinal}",
        started_unix_ns=started,
    )


def a_notice(name: str, *, session: str = "s", archive_ids: tuple[str, ...] = ("a", "b")) -> Notice:
    return Notice(
        notice_id=name,
        tenant="t",
        session_id=session,
        turns=(1, 2),
        archive_ids=archive_ids,
        topic="cats",
        text="NOTICE: cats",
        created_unix_ns=5,
    )


def keep(archives: Archives, *turns: StoredTurn, tenant: str = "t", archived: bool = False) -> None:
    with archives.of(tenant).writing() as writer:
        for turn in turns:
            writer.insert(turn)
            if archived:
                writer.archive(turn.archive_id, 99)
