"""A span for each HTTP request, in the trace that its header names.

The span has the route's template, never the path: that holds ids and what was
searched for.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shepherd_telemetry.spans import Kind, Spans, measured
from shepherd_telemetry.trace_context import HEADER, parse

_UNTRACED = frozenset({"/health", "/live", "/metrics"})


class TracedHttp:
    """Wraps an application."""

    def __init__(self, app: ASGIApp, spans: Spans) -> None:
        self._app = app
        self._spans = spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or scope["path"] in _UNTRACED:
            await self._app(scope, receive, send)
            return
        parent = parse(Headers(scope=scope).get(HEADER))
        with measured(self._spans, scope["method"], Kind.SERVER, parent=parent) as span:

            async def sending(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set({"http.response.status_code": message["status"]})
                await send(message)

            try:
                await self._app(scope, receive, sending)
            finally:
                route = getattr(scope.get("route"), "path", "")
                span.set({"http.request.method": scope["method"], "http.route": route})
