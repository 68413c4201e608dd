"""What sessions should be told: pull, long poll, server-sent events, acknowledgement."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header
from starlette.responses import StreamingResponse

from shepherd_memory.api.access import Reader, Writer
from shepherd_memory.api.parameters import (
    MAX_INTEGER,
    MAX_PAGE,
    After,
    Limit,
    NoticeId,
    OfSession,
    Wait,
)
from shepherd_memory.api.problems import problem_responses
from shepherd_memory.archive.records import NoticeState
from shepherd_memory.errors import StoreUnavailableError
from shepherd_memory.memory import Memory
from shepherd_memory.models import NoticeModel, NoticePage

PING_S = 15.0
"""An event stream says something at least so often, so that dead readers are noticed."""

router = APIRouter(prefix="/v1/notices", tags=["notices"], responses=problem_responses())


@router.get("")
async def list_notices(
    caller: Reader,
    session: OfSession = None,
    state: NoticeState | None = None,
    after: After = 0,
    limit: Limit = 100,
) -> NoticePage:
    """The outbox."""
    found = await caller.memory.notices(session=session, state=state, after=after, limit=limit)
    caller.counted(len(found), session=session or "")
    following = found[-1].position if len(found) == limit else None
    return NoticePage(notices=[NoticeModel.of(each) for each in found], next=following)


@router.get("/wait")
async def wait_for_notices(
    caller: Reader, session: OfSession = None, after: After = 0, timeout_s: Wait = 30
) -> NoticePage:
    """Pending notices as soon as there are any; none when time is up."""
    found = await caller.memory.wait_for_notices(
        session=session, after=after, limit=MAX_PAGE, timeout_s=timeout_s
    )
    caller.counted(len(found), session=session or "")
    following = found[-1].position if found else after
    return NoticePage(notices=[NoticeModel.of(each) for each in found], next=following)


@router.get(
    "/stream",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "Notices as events."}},
)
async def stream_notices(
    caller: Reader,
    session: OfSession = None,
    after: After = 0,
    last_event_id: Annotated[str, Header()] = "",
) -> StreamingResponse:
    """Pending notices and then every new one, as server-sent events; `Last-Event-ID` goes on."""
    if last_event_id.isascii() and last_event_id.isdecimal() and len(last_event_id) < 20:
        after = min(int(last_event_id), MAX_INTEGER)
    # A store that cannot be used is a status, as long as there can be one.
    await caller.memory.notices(session=session, state=NoticeState.PENDING, after=after, limit=1)
    caller.counted(0, session=session or "")
    return StreamingResponse(
        _events(caller.memory, session, after),
        media_type="text/event-stream",
        headers={"cache-control": "no-store"},
    )


@router.post("/{notice}/ack", status_code=204, responses=problem_responses(404))
async def acknowledge(caller: Writer, notice: NoticeId) -> None:
    """The session has been told; again is harmless."""
    await caller.memory.acknowledge(notice)
    caller.counted(1)


async def _events(memory: Memory, session: str | None, after: int) -> AsyncIterator[str]:
    """Ends when the store cannot be used: whoever reads comes again and goes on."""
    yield ": notices\n\n"
    while not memory.is_closing:
        try:
            found = await memory.wait_for_notices(
                session=session, after=after, limit=MAX_PAGE, timeout_s=PING_S
            )
        except StoreUnavailableError:
            return
        for each in found:
            after = each.position
            text = NoticeModel.of(each).model_dump_json()
            yield f"id: {after}\nevent: notice\ndata: {text}\n\n"
        if not found:
            yield ": still here\n\n"
