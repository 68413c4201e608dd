"""Conversations and their turns."""

from __future__ import annotations

from fastapi import APIRouter

from shepherd_memory.api.access import Reader, Writer
from shepherd_memory.api.conditional import ConditionalRoute
from shepherd_memory.api.parameters import After, AfterName, ArchiveId, Limit, SessionId
from shepherd_memory.api.problems import problem_responses
from shepherd_memory.models import (
    ErasedModel,
    RoomMade,
    RoomRequest,
    SessionModel,
    SessionPage,
    TurnModel,
    TurnPage,
)

router = APIRouter(
    prefix="/v1", tags=["sessions"], route_class=ConditionalRoute, responses=problem_responses()
)


@router.get("/sessions")
async def list_sessions(caller: Reader, after: AfterName = "", limit: Limit = 100) -> SessionPage:
    """Sessions by name."""
    found = await caller.memory.sessions(after=after, limit=limit)
    caller.counted(len(found))
    following = found[-1].session if len(found) == limit else None
    return SessionPage(sessions=[SessionModel.of(each) for each in found], next=following)


@router.get("/sessions/{session:path}/turns", responses=problem_responses(404))
async def list_turns(
    caller: Reader, session: SessionId, after: After = 0, limit: Limit = 100
) -> TurnPage:
    """A session's turns by ordinal; those of the last ordinal are never cut off."""
    found = await caller.memory.turns(session, after=after, limit=limit)
    caller.counted(len(found), session=session)
    following = found[-1].ordinal if len(found) >= limit else None
    return TurnPage(turns=[TurnModel.of(each) for each in found], next=following)


@router.get("/sessions/{session:path}", responses=problem_responses(404))
async def get_session(caller: Reader, session: SessionId) -> SessionModel:
    """One session."""
    found = await caller.memory.session(session)
    caller.counted(1, session=session)
    return SessionModel.of(found)


@router.delete("/sessions/{session:path}")
async def forget_session(caller: Writer, session: SessionId) -> ErasedModel:
    """Remove all of a conversation for good: turns, vectors, notices, dead letters.

    What a worker's stream replays of it later is refused.  Forgetting what is not there, or a
    second time, removes nothing and is no error.
    """
    erased = ErasedModel.of(await caller.memory.erase_session(session))
    caller.counted(erased.total, session=session)
    return erased


@router.post("/sessions/{session:path}/archive", responses=problem_responses(404, 409))
async def make_room(caller: Writer, session: SessionId, asked: RoomRequest) -> RoomMade:
    """Archive turns that a context window has no room for, with one notice.  Again is harmless."""
    unseen = [each.as_turn() for each in asked.unseen]
    archived = await caller.memory.make_room(session, asked.archive_ids, unseen)
    caller.counted(len(asked.archive_ids) + len(unseen), session=session)
    return RoomMade(archived=archived)


@router.delete("/turns/{archive_id}")
async def forget_turn(caller: Writer, archive_id: ArchiveId) -> ErasedModel:
    """Remove one turn for good, and the notices that tell of it."""
    erased = ErasedModel.of(await caller.memory.erase_turn(archive_id))
    caller.counted(erased.total)
    return erased
