"""Finding again what was said: as data, as text for a prompt, as a tool's answer."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request

from shepherd_memory import tools
from shepherd_memory.api.access import Caller, Reader, gate_of
from shepherd_memory.api.conditional import ConditionalRoute
from shepherd_memory.api.parameters import (
    Hits,
    Neighbours,
    OfSession,
    Relevance,
    Since,
    Until,
    Words,
)
from shepherd_memory.api.problems import problem_responses
from shepherd_memory.injection import context_of
from shepherd_memory.metrics import Metrics
from shepherd_memory.models import (
    ContextAnswer,
    HitModel,
    SearchAnswer,
    ToolAnswer,
    ToolCall,
    ToolList,
)

router = APIRouter(
    prefix="/v1", tags=["recall"], route_class=ConditionalRoute, responses=problem_responses()
)


@router.get("/search")
async def search(
    caller: Reader,
    query: Words,
    *,
    k: Hits = 5,
    session: OfSession = None,
    since_unix_ns: Since = None,
    until_unix_ns: Until = None,
    min_relevance: Relevance = 0.0,
    neighbours: Neighbours = False,
) -> SearchAnswer:
    """Archived turns that fit best, word for word."""
    hits = await caller.memory.search(
        query,
        k=k,
        session=session,
        since_unix_ns=since_unix_ns,
        until_unix_ns=until_unix_ns,
        min_relevance=min_relevance,
        neighbours=neighbours,
    )
    caller.counted(len(hits), session=session or "")
    return SearchAnswer(hits=[HitModel.of_hit(hit) for hit in hits])


@router.get("/context")
async def context(
    caller: Reader,
    query: Words,
    *,
    k: Hits = 3,
    session: OfSession = None,
    since_unix_ns: Since = None,
    until_unix_ns: Until = None,
    min_relevance: Relevance = 0.0,
) -> ContextAnswer:
    """Facts and archived turns as text for a prompt, for callers whose model calls no tools.

    Put it before the newest user message and nowhere else: text in an earlier place would evict
    the prefix that is being served.  Where it comes back in a conversation it is recognised by its
    markers and not archived again.
    """
    hits = await caller.memory.search(
        query,
        k=k,
        session=session,
        since_unix_ns=since_unix_ns,
        until_unix_ns=until_unix_ns,
        min_relevance=min_relevance,
    )
    facts = await caller.memory.facts(after="", limit=tools.MAX_LISTED_FACTS)
    caller.counted(len(hits) + len(facts), session=session or "")
    return ContextAnswer(
        text=context_of(hits, facts), archive_ids=[hit.turn.archive_id for hit in hits]
    )


@router.get("/tools")
async def list_tools(caller: Reader) -> ToolList:
    """The memory's tools, as a chat completion request offers them."""
    caller.counted(len(tools.TOOLS))
    return ToolList.model_validate({"tools": tools.openai_tools()})


@router.post("/tools/{name}", responses=problem_responses(404, 409))
async def call_tool(request: Request, caller: Reader, name: str, asked: ToolCall) -> ToolAnswer:
    """Call a tool as the model asked for it; the answer is what the model is told."""
    answer = await called(caller, gate_of(request).metrics, name, asked.arguments)
    return ToolAnswer(content=answer.text)


async def called(
    caller: Caller, metrics: Metrics, name: str, arguments: dict[str, object]
) -> tools.Answer:
    """Call a tool for somebody who may, and count it.

    Raises:
        UnknownItemError: there is no such tool.
        InvalidParameterError: an argument is missing or cannot be understood.
        PermissionDeniedError: the credential may not call it.
    """
    tool = tools.tool_named(name)
    caller.identity.require(tool.right)
    outcome = "error"
    try:
        answer = await tools.call(caller.memory, name, arguments)
        outcome = "ok"
    finally:
        metrics.tool_calls.labels(name, outcome).inc()
    caller.counted(answer.count)
    return answer
