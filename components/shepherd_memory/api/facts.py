"""What is kept by hand: facts by key, and exchanges worth remembering."""

from __future__ import annotations

from fastapi import APIRouter

from shepherd_memory.api.access import Reader, Writer
from shepherd_memory.api.conditional import ConditionalRoute
from shepherd_memory.api.parameters import AfterName, FactKey, Limit
from shepherd_memory.api.problems import problem_responses
from shepherd_memory.models import (
    ClearRequest,
    ErasedModel,
    FactHistory,
    FactModel,
    FactPage,
    FactValue,
    MemoryPage,
    MemoryRequest,
    MemoryStored,
    Removed,
    TurnModel,
)

router = APIRouter(
    prefix="/v1", tags=["facts"], route_class=ConditionalRoute, responses=problem_responses()
)


@router.get("/facts")
async def list_facts(caller: Reader, after: AfterName = "", limit: Limit = 100) -> FactPage:
    """The facts that hold now, by key."""
    found = await caller.memory.facts(after=after, limit=limit)
    caller.counted(len(found))
    following = found[-1].key if len(found) == limit else None
    return FactPage(facts=[FactModel.of(each) for each in found], next=following)


@router.get("/facts/{key:path}/history")
async def get_history(caller: Reader, key: FactKey, limit: Limit = 100) -> FactHistory:
    """A key's values, latest first."""
    found = await caller.memory.fact_history(key, limit=limit)
    caller.counted(len(found))
    return FactHistory(facts=[FactModel.of(each) for each in found])


@router.delete("/facts/{key:path}/history", responses=problem_responses(409))
async def forget_fact(caller: Writer, key: FactKey) -> ErasedModel:
    """Remove all values that a key ever had, for good."""
    erased = ErasedModel.of(await caller.memory.erase_fact(key))
    caller.counted(erased.total)
    return erased


@router.get("/facts/{key:path}", responses=problem_responses(404))
async def get_fact(caller: Reader, key: FactKey) -> FactModel:
    """The fact of a key, or of one that is spelt almost so."""
    found = await caller.memory.fact(key)
    caller.counted(1)
    return FactModel.of(found)


@router.put("/facts/{key:path}", status_code=204, responses=problem_responses(409))
async def set_fact(caller: Writer, key: FactKey, asked: FactValue) -> None:
    """Give a key a value; the value before stays in the key's history."""
    await caller.memory.set_fact(key, asked.value)
    caller.counted(1)


@router.delete("/facts/{key:path}", status_code=204, responses=problem_responses(404, 409))
async def clear_fact(caller: Writer, key: FactKey) -> None:
    """End a fact; its past stays until its history is deleted."""
    await caller.memory.clear_fact(key)
    caller.counted(1)


@router.get("/memories")
async def list_memories(caller: Reader, after: AfterName = "", limit: Limit = 100) -> MemoryPage:
    """What was stored by hand."""
    found = await caller.memory.memories(after=after, limit=limit)
    caller.counted(len(found))
    following = found[-1].archive_id if len(found) == limit else None
    return MemoryPage(memories=[TurnModel.of(each) for each in found], next=following)


@router.post("/memories", status_code=201, responses=problem_responses(409))
async def store_memory(caller: Writer, asked: MemoryRequest) -> MemoryStored:
    """Remember an exchange; the same one again has the same id."""
    archive_id = await caller.memory.store_memory(asked.question, asked.answer)
    caller.counted(1)
    return MemoryStored(archive_id=archive_id)


@router.post("/memories/clear", responses=problem_responses(409))
async def clear_memory(caller: Writer, asked: ClearRequest) -> Removed:
    """Remove what was stored by hand under exactly this question."""
    removed = await caller.memory.clear_memory(asked.question)
    caller.counted(removed)
    return Removed(removed=removed)
