"""The HTTP interface: OpenAI's chat completions, responses and models.

Refusals have OpenAI's form and name the field.  `/health` and `/live` are open;
where there are no credentials only this machine can ask, and `/metrics` is here
as well, else on the operator's port alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from shepherd_auth.identity import Scope
from shepherd_gateway import responses
from shepherd_gateway.access import Gate, forwarded, salted, session_of
from shepherd_gateway.chat import Chat
from shepherd_gateway.checks import check_chat, object_in
from shepherd_gateway.errors import UpstreamError
from shepherd_gateway.event_stream import EventStream, while_there
from shepherd_gateway.health import Health
from shepherd_gateway.metrics import Metrics
from shepherd_gateway.refusals import EXPECTED, document, no_such_route, refusal_of
from shepherd_gateway.response_events import streamed
from shepherd_gateway.seats import NoSeatError, Seats
from shepherd_gateway.upstream import Upstream
from shepherd_gateway.work import Ask
from shepherd_http.limits import LoopbackHostOnly, SizeLimit

log = logging.getLogger(__name__)

LEFT = 499
"""What is counted where nobody is there to be answered."""

Answering = Callable[[Request, str], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may be."""

    max_body_bytes: int
    max_messages: int
    max_concurrent: int


class Gateway:
    """The routes of one process."""

    def __init__(
        self,
        *,
        chat: Chat,
        upstream: Upstream,
        gate: Gate,
        limits: Limits,
        metrics: Metrics,
        health: Health,
    ) -> None:
        self._chat = chat
        self._upstream = upstream
        self._gate = gate
        self._limits = limits
        self._metrics = metrics
        self._health = health
        self._seats = Seats(limits.max_concurrent, on_change=metrics.in_progress.set)

    def app(self) -> Starlette:
        """The application for clients."""
        is_open = self._gate.authenticator.is_open
        routes = [
            self._route("/v1/chat/completions", self._completions, Scope.READ, Scope.WRITE),
            self._route("/v1/responses", self._responses, Scope.READ, Scope.WRITE),
            self._route("/v1/models", self._models, method="GET"),
            self._route("/v1/models/{model:path}", self._models, method="GET"),
            *self._status_routes(detailed=is_open),
        ]
        return Starlette(
            routes=routes,
            exception_handlers={HTTPException: no_such_route},
            middleware=[
                *([Middleware(LoopbackHostOnly)] if is_open else []),
                Middleware(SizeLimit, max_bytes=self._limits.max_body_bytes),
            ],
        )

    def admin_app(self) -> Starlette:
        """The application for the operator."""
        return Starlette(routes=self._status_routes(detailed=True))

    def _route(self, path: str, answer: Answering, *scopes: Scope, method: str = "POST") -> Route:
        name = path.removesuffix("/{model:path}")

        async def endpoint(request: Request) -> Response:
            began_s = time.monotonic()
            response = await self._answered(request, answer, scopes)
            self._metrics.requests.labels(name, response.status_code).inc()
            if not isinstance(response, EventStream):
                self._metrics.duration.labels(name).observe(time.monotonic() - began_s)
            return response

        return Route(path, endpoint, methods=[method])

    async def _answered(
        self, request: Request, answer: Answering, scopes: tuple[Scope, ...]
    ) -> Response:
        try:
            tenant = self._gate.admit(request.headers, *scopes)
            return await answer(request, tenant)
        except ClientDisconnect:
            self._metrics.disconnects.inc()
            return Response(status_code=LEFT)
        except EXPECTED as error:
            self._count(error)
            return refusal_of(error)
        except Exception as error:
            # The edge of a request: whatever it was, the other requests go on.
            log.exception("a request failed")
            self._metrics.failures.inc()
            return refusal_of(error)

    def _count(self, error: Exception) -> None:
        if isinstance(error, UpstreamError):
            self._metrics.upstream_errors.labels(error.reason).inc()
        elif isinstance(error, NoSeatError):
            self._metrics.rate_limited.labels("concurrent").inc()

    async def _completions(self, request: Request, tenant: str) -> Response:
        body = object_in(await request.body())
        check_chat(body, self._limits.max_messages)
        ask = self._ask(request, tenant, body)
        if body.get("stream"):
            return await self._streamed(request, ask, lambda events: events)
        with self._seats.one():
            async with while_there(request.receive):
                answer, work = await self._chat.complete(ask)
        return document(answer, work.headers())

    async def _responses(self, request: Request, tenant: str) -> Response:
        asked = responses.read(object_in(await request.body()))
        check_chat(asked.chat, self._limits.max_messages)
        ask = self._ask(request, tenant, asked.chat)
        if asked.chat.get("stream"):
            now = int(time.time())
            return await self._streamed(request, ask, lambda events: streamed(asked, events, now))
        with self._seats.one():
            async with while_there(request.receive):
                answer, work = await self._chat.complete(ask)
        return document(responses.whole(asked, answer), work.headers())

    async def _models(self, request: Request, tenant: str) -> Response:
        del tenant
        reply = await self._upstream.get(request.url.path)
        return Response(reply.body, reply.status, media_type=reply.content_type)

    def _ask(self, request: Request, tenant: str, body: Mapping[str, Any]) -> Ask:
        session = session_of(request.headers, body)
        return Ask(
            body=salted(body, self._gate.salt_of(tenant)),
            tenant=tenant,
            session=session,
            headers=forwarded(request.headers, session),
            shows_recall=request.headers.get("x-shepherd-show-recall", "").lower() == "true",
            arrived_s=time.monotonic(),
        )

    async def _streamed(
        self,
        request: Request,
        ask: Ask,
        told: Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]],
    ) -> Response:
        with ExitStack() as seated:
            seated.enter_context(self._seats.one())
            async with while_there(request.receive):
                stream, work = await self._chat.stream(ask)
            seat = seated.pop_all()
        self._metrics.first_token.observe(time.monotonic() - ask.arrived_s)

        async def close() -> None:
            seat.close()
            if not stream.has_ended:
                self._metrics.disconnects.inc()
            took_s = time.monotonic() - ask.arrived_s
            self._metrics.duration.labels(request.url.path).observe(took_s)
            await stream.aclose()

        return EventStream(told(aiter(stream)), headers=work.headers(), close=close)

    def _status_routes(self, *, detailed: bool) -> list[Route]:
        async def live(_: Request) -> Response:
            return document({"status": "ok"})

        async def health(_: Request) -> Response:
            healthy, report = await self._health.check()
            said = report if detailed else {"status": report["status"]}
            return document(said, status=200 if healthy else 503)

        async def metrics(_: Request) -> Response:
            return Response(self._metrics.render(), media_type=CONTENT_TYPE_LATEST)

        routes = [Route("/live", live), Route("/health", health)]
        return [*routes, Route("/metrics", metrics)] if detailed else routes
