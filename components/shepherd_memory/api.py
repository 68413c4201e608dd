"""The HTTP door: Starlette routes over `Memory`, nothing more.

No credentials yet: loopback only, one tenant, which no request can name.  A
request whose Host is not a loopback name is refused, so that a web page cannot
reach the archive through a name that points here.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from shepherd_memory.archive.records import NoticeState, SessionSummary, StoredNotice, StoredTurn
from shepherd_memory.errors import InvalidParameterError, UnknownItemError
from shepherd_memory.memory import Memory
from shepherd_memory.problems import (
    Parameters,
    internal_error,
    invalid_parameter,
    refused_by_routing,
    unknown_item,
    valid_id,
)

MAX_PAGE = 1000
MAX_WAIT_S = 60
PING_S = 15.0
"""An event stream says something at least so often, so that dead readers are noticed."""

_MAX_INTEGER = 2**63 - 1
_MAX_K = 10**9
"""Beyond this a number is not worth passing on; `search` knows the real limit."""


@dataclass(frozen=True, slots=True)
class Api:
    """What the routes are made of."""

    memory: Memory
    health: Callable[[], tuple[bool, dict[str, Any]]]
    """Whether all is well, and the document that says why."""
    metrics: Callable[[], bytes]

    def app(self) -> Starlette:
        """The application."""
        return Starlette(
            routes=[
                Route("/v1/sessions", self.sessions),
                Route("/v1/sessions/{session:path}/turns", self.turns),
                Route("/v1/sessions/{session:path}", self.session),
                Route("/v1/notices", self.notices),
                Route("/v1/notices/wait", self.wait),
                Route("/v1/notices/stream", self.stream),
                Route("/v1/notices/{notice}/ack", self.acknowledge, methods=["POST"]),
                Route("/v1/search", self.search),
                Route("/health", self.get_health),
                Route("/live", self.live),
                Route("/metrics", self.get_metrics),
            ],
            middleware=[Middleware(LoopbackHostOnly)],
            exception_handlers={
                InvalidParameterError: invalid_parameter,
                UnknownItemError: unknown_item,
                HTTPException: refused_by_routing,
                Exception: internal_error,
            },
        )

    async def sessions(self, request: Request) -> Response:
        """Sessions by name."""
        asked = Parameters(request, {"after", "limit"})
        limit = _limit(asked)
        found = await self.memory.sessions(after=asked.text("after"), limit=limit)
        following = found[-1].session if len(found) == limit else None
        return JSONResponse({"sessions": [_session(each) for each in found], "next": following})

    async def session(self, request: Request) -> Response:
        """One session."""
        Parameters(request, ())
        return JSONResponse(_session(await self.memory.session(_session_id(request))))

    async def turns(self, request: Request) -> Response:
        """A session's turns."""
        asked = Parameters(request, {"after", "limit"})
        limit = _limit(asked)
        after = asked.integer("after", 0, at_most=_MAX_INTEGER)
        found = await self.memory.turns(_session_id(request), after=after, limit=limit)
        following = found[-1].ordinal if len(found) >= limit else None
        return JSONResponse({"turns": [_turn(each) for each in found], "next": following})

    async def notices(self, request: Request) -> Response:
        """The outbox."""
        asked = Parameters(request, {"session", "state", "after", "limit"})
        limit = _limit(asked)
        state = asked.choice("state", [state.value for state in NoticeState])
        found = await self.memory.notices(
            session=asked.session(),
            state=NoticeState(state) if state else None,
            after=asked.integer("after", 0, at_most=_MAX_INTEGER),
            limit=limit,
        )
        following = found[-1].position if len(found) == limit else None
        return JSONResponse({"notices": [_notice(each) for each in found], "next": following})

    async def wait(self, request: Request) -> Response:
        """Pending notices as soon as there are any."""
        asked = Parameters(request, {"session", "after", "timeout"})
        after = asked.integer("after", 0, at_most=_MAX_INTEGER)
        found = await self.memory.wait_for_notices(
            session=asked.session(),
            after=after,
            limit=MAX_PAGE,
            timeout_s=asked.integer("timeout", 30, at_most=MAX_WAIT_S),
        )
        following = found[-1].position if found else after
        return JSONResponse({"notices": [_notice(each) for each in found], "next": following})

    async def stream(self, request: Request) -> Response:
        """Pending notices and then every new one, as server-sent events."""
        asked = Parameters(request, {"session", "after"})
        session = asked.session()
        after = asked.integer("after", 0, at_most=_MAX_INTEGER)
        last = request.headers.get("last-event-id", "")
        if last.isascii() and last.isdecimal() and int(last[:20]) <= _MAX_INTEGER:
            after = int(last[:20])
        return StreamingResponse(
            self._events(session, after),
            media_type="text/event-stream",
            headers={"cache-control": "no-store"},
        )

    async def _events(self, session: str | None, after: int) -> AsyncIterator[str]:
        yield ": notices\n\n"
        while not self.memory.is_closing:
            found = await self.memory.wait_for_notices(
                session=session, after=after, limit=MAX_PAGE, timeout_s=PING_S
            )
            for each in found:
                after = each.position
                yield f"id: {after}\nevent: notice\ndata: {json.dumps(_notice(each))}\n\n"
            if not found:
                yield ": still here\n\n"

    async def acknowledge(self, request: Request) -> Response:
        """Mark a notice as heard."""
        Parameters(request, ())
        notice = valid_id("notice", request.path_params["notice"])
        await self.memory.acknowledge(notice)
        return Response(status_code=204)

    async def search(self, request: Request) -> Response:
        """Archived turns, word for word."""
        asked = Parameters(request, {"query", "k", "session"})
        hits = await self.memory.search(
            asked.required("query"),
            k=asked.integer("k", 5, at_least=-_MAX_K, at_most=_MAX_K),
            session=asked.session(),
        )
        return JSONResponse({"hits": [{"score": hit.score, **_turn(hit.turn)} for hit in hits]})

    async def get_health(self, request: Request) -> Response:
        """200 or 503, and why."""
        del request
        healthy, document = self.health()
        return JSONResponse(document, 200 if healthy else 503)

    async def live(self, request: Request) -> Response:
        """The event loop turns."""
        del request
        return JSONResponse({"status": "ok"})

    async def get_metrics(self, request: Request) -> Response:
        """For Prometheus."""
        del request
        return Response(self.metrics(), media_type=CONTENT_TYPE_LATEST)


class LoopbackHostOnly:
    """ASGI middleware that refuses every Host but loopback addresses and localhost."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, or refuse it with 400."""
        app = self._app
        if scope["type"] == "http":
            host = Request(scope).headers.get("host", "")
            if not _is_loopback(host):
                error = InvalidParameterError("host", host, "a loopback address", status=400)
                app = invalid_parameter(Request(scope), error)
        await app(scope, receive, send)


def _is_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _limit(asked: Parameters) -> int:
    return asked.integer("limit", 100, at_least=1, at_most=MAX_PAGE)


def _session_id(request: Request) -> str:
    return valid_id("session", request.path_params["session"])


def _session(summary: SessionSummary) -> dict[str, Any]:
    return {
        "session": summary.session,
        "live_turns": summary.live_turns,
        "archived_turns": summary.archived_turns,
        "last_unix_ns": summary.last_unix_ns,
    }


def _turn(turn: StoredTurn) -> dict[str, Any]:
    return {
        "archive_id": turn.archive_id,
        "session": turn.session,
        "ordinal": turn.ordinal,
        "state": turn.state,
        "messages": [{"role": said.role, "content": said.text} for said in turn.messages],
        "started_unix_ns": turn.started_unix_ns,
        "archived_unix_ns": turn.archived_unix_ns or None,
    }


def _notice(row: StoredNotice) -> dict[str, Any]:
    notice = row.notice
    return {
        "notice_id": notice.notice_id,
        "position": row.position,
        "state": row.state,
        "session": notice.session_id,
        "turns": notice.turns,
        "archive_ids": notice.archive_ids,
        "topic": notice.topic,
        "text": notice.text,
        "created_unix_ns": notice.created_unix_ns,
    }
