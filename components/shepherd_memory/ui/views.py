"""The pages that are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from shepherd_memory.api.access import Reader, gate_of
from shepherd_memory.api.parameters import (
    MAX_ID_CHARS,
    MAX_INTEGER,
    MAX_KEY_CHARS,
    After,
    AfterName,
    Hits,
)
from shepherd_memory.archive.records import StoredTurn
from shepherd_memory.errors import InvalidParameterError, UnknownItemError
from shepherd_memory.memory import Memory
from shepherd_memory.search import MAX_QUERY_CHARS
from shepherd_memory.ui.excerpts import excerpt
from shepherd_memory.ui.rendering import page
from shepherd_memory.ui.timeline import Standing, TurnView, tally, views_of

LATEST_SESSIONS = 20
TURNS_OF_A_ROW = 24
LATEST_NOTICES = 20
NOTICES_BESIDE = 5
TURNS_PAGE = 200
NAMES_PAGE = 100
FACTS_PAGE = 100
HISTORY = 100

router = APIRouter()

_Before = Annotated[int | None, Query(ge=1, le=MAX_INTEGER)]
_SessionId = Annotated[str | None, Query(alias="id", pattern=rf"^[\x21-\x7e]{{1,{MAX_ID_CHARS}}}$")]
_SessionOrNone = Annotated[str, Query(max_length=MAX_ID_CHARS)]
_Key = Annotated[str | None, Query(min_length=1, max_length=MAX_KEY_CHARS)]
_Words = Annotated[str, Query(max_length=MAX_QUERY_CHARS)]


@router.get("/")
async def overview(request: Request, caller: Reader, before: _Before = None) -> Response:
    """What was talked about last, and what left the caches last."""
    memory = caller.memory
    rows = []
    for summary in await memory.latest_sessions(limit=LATEST_SESSIONS):
        turns = await memory.turns(summary.session, after=0, limit=TURNS_OF_A_ROW)
        rows.append((summary, await _views(memory, turns)))
    notices = await memory.latest_notices(session=None, before=before, limit=LATEST_NOTICES)
    caller.counted(len(rows))
    return page(
        request,
        "overview",
        caller=caller,
        stats=await memory.stats(),
        caches=await _caches(memory) if gate_of(request).authenticator.is_open else [],
        rows=rows,
        notices=notices,
        older=notices[-1].position if len(notices) == LATEST_NOTICES else None,
        standings=list(Standing),
    )


@router.get("/sessions")
async def sessions_page(request: Request, caller: Reader, after: AfterName = "") -> Response:
    """All conversations by name."""
    found = await caller.memory.sessions(after=after, limit=NAMES_PAGE)
    caller.counted(len(found))
    following = found[-1].session if len(found) == NAMES_PAGE else None
    shown = [each for each in found if each.session]
    return page(request, "sessions", caller=caller, sessions=shown, following=following)


@router.get("/session")
async def session_page(
    request: Request,
    caller: Reader,
    session: _SessionId = None,
    after: After = 0,
) -> Response:
    """One conversation's timeline."""
    if session is None:
        raise InvalidParameterError("id", "", "the session's id")
    memory = caller.memory
    summary = await memory.session(session)
    turns = await memory.turns(session, after=after, limit=TURNS_PAGE)
    views = await _views(memory, turns)
    caller.counted(len(views), session=session)
    return page(
        request,
        "session",
        caller=caller,
        summary=summary,
        views=views,
        tally=tally(views),
        notices=await memory.latest_notices(session=session, before=None, limit=NOTICES_BESIDE),
        after=after,
        following=turns[-1].ordinal if len(turns) >= TURNS_PAGE else None,
    )


@router.get("/search")
async def search_page(
    request: Request, caller: Reader, query: _Words = "", k: Hits = 10, session: _SessionOrNone = ""
) -> Response:
    """Archived turns that fit a question, with its words marked; looking is no recall."""
    hits = []
    if query.strip():
        hits = await caller.memory.search(query, k=k, session=session or None, is_recall=False)
    caller.counted(len(hits), session=session)
    found = [
        (
            hit,
            [
                (said.role, excerpt(said.text, spans))
                for said, spans in zip(hit.turn.messages, hit.highlights, strict=True)
            ],
        )
        for hit in hits
    ]
    return page(request, "search", caller=caller, query=query, k=k, session=session, found=found)


@router.get("/facts")
async def facts_page(
    request: Request, caller: Reader, after: AfterName = "", key: _Key = None
) -> Response:
    """The facts that hold now, or one fact's past; and what was stored by hand."""
    memory = caller.memory
    if key is not None:
        history = await memory.fact_history(key, limit=HISTORY)
        if not history:
            raise UnknownItemError("fact", key)
        caller.counted(len(history))
        return page(request, "fact", caller=caller, key=key, history=history)
    facts = await memory.facts(after=after, limit=FACTS_PAGE)
    memories = await memory.memories(after="", limit=FACTS_PAGE)
    caller.counted(len(facts) + len(memories))
    following = facts[-1].key if len(facts) == FACTS_PAGE else None
    return page(
        request,
        "facts",
        caller=caller,
        facts=facts,
        memories=memories,
        following=following,
    )


async def _caches(memory: Memory) -> list[tuple[str, str, int]]:
    """Worker, tier and number of blocks; of all tenants, so it is shown where there is one only."""
    resident = await memory.resident_blocks()
    by_name = sorted(resident.items(), key=lambda each: (str(each[0][0]), each[0][1]))
    return [(str(stream), tier.name.lower(), blocks) for (stream, tier), blocks in by_name]


async def _views(memory: Memory, turns: Sequence[StoredTurn]) -> list[TurnView]:
    recalled = await memory.recalled_unix_ns([turn.archive_id for turn in turns])
    return views_of(turns, await memory.residency(turns), recalled)
