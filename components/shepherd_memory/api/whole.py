"""Everything of a tenant at once: take it along, or have it removed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter
from starlette.responses import StreamingResponse

from shepherd_memory.api.access import Administrator, Reader
from shepherd_memory.api.parameters import OfSession
from shepherd_memory.api.problems import problem_responses
from shepherd_memory.archive.records import Fact, StoredNotice, StoredTurn
from shepherd_memory.memory import Memory, Record
from shepherd_memory.models import ErasedModel, FactModel, NoticeModel, StatsModel, TurnModel

router = APIRouter(prefix="/v1", tags=["archive"], responses=problem_responses())


@router.get("/stats")
async def stats(caller: Reader) -> StatsModel:
    """How much the archive holds."""
    found = await caller.memory.stats()
    caller.counted(found.archived_turns)
    return StatsModel.of(found)


@router.get(
    "/export",
    response_class=StreamingResponse,
    responses=problem_responses(404)
    | {200: {"content": {"application/x-ndjson": {}}, "description": "A record per line."}},
)
async def export(caller: Reader, session: OfSession = None) -> StreamingResponse:
    """Everything that is kept, or everything of one session: one JSON document per line.

    The last line is `{"kind": "end", "records": N}`; without it the export was cut off.
    """
    if session is not None:
        await caller.memory.session(session)
    else:  # a store that cannot be used is a status, as long as there can be one
        await caller.memory.sessions(after="", limit=1)
    caller.counted(1, session=session or "")
    return StreamingResponse(_lines(caller.memory, session), media_type="application/x-ndjson")


@router.delete("/archive")
async def forget_everything(caller: Administrator) -> ErasedModel:
    """Remove everything of the tenant for good; what is replayed of it later is refused."""
    erased = ErasedModel.of(await caller.memory.erase_all())
    caller.counted(erased.total)
    return erased


async def _lines(memory: Memory, session: str | None) -> AsyncIterator[str]:
    records = 0
    async with aclosing(memory.export(session)) as exported:
        async for record in exported:
            records += 1
            yield _line(record)
    yield f'{{"kind": "end", "records": {records}}}\n'


def _line(record: Record) -> str:
    model: Any
    match record:
        case StoredTurn():
            kind, model = "turn", TurnModel.of(record)
        case StoredNotice():
            kind, model = "notice", NoticeModel.of(record)
        case Fact():
            kind, model = "fact", FactModel.of(record)
    return f'{{"kind": "{kind}", "{kind}": {model.model_dump_json()}}}\n'
