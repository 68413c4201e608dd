"""How large a request may be, how long it may take, and which host it may name.

ASGI middleware without any knowledge of routes.  Each refuses with a problem
before the application has seen the request.
"""

from __future__ import annotations

import asyncio
import ipaddress
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shepherd_http.problems import problem

MAX_BODY_BYTES = 1 << 20
MAX_HEADER_BYTES = 64 << 10
"""Of all names and values together; `Connection` has the same limit while they come."""
READING_S = 10.0
"""How long a caller may take to send a request's body."""


class LoopbackHostOnly:
    """Refuses every Host but loopback addresses and localhost.

    For listeners without credentials: a web page cannot reach them through a
    name that points here.  A request that says it comes from another origin is
    refused as well.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, or refuse it with 400."""
        app = self._app
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            for field, value in (
                ("host", headers.get("host", "")),
                ("origin", _authority(headers.get("origin", "//localhost"))),
            ):
                if not _is_loopback(value):
                    expected = "a loopback address"
                    app = problem(
                        400,
                        f"{field} {value[:64]!r} is not valid: expected {expected}",
                        field=field,
                        value=value[:64],
                        limit=expected,
                    )
        await app(scope, receive, send)


class SizeLimit:
    """Reads a request's body whole, up to a size and within a time, before it is passed on."""

    def __init__(self, app: ASGIApp, max_bytes: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, or refuse it with 431, 413 or 408."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
            await problem(431, f"the headers are larger than {MAX_HEADER_BYTES} bytes")(
                scope, receive, send
            )
            return
        try:
            async with asyncio.timeout(READING_S):
                body = await self._read(scope, receive)
        except ClientDisconnect:
            return
        except TimeoutError:
            await problem(408, f"the body did not come within {READING_S:g} s")(
                scope, receive, send
            )
            return
        if body is None:
            refusal = problem(413, f"the body is larger than {self._max_bytes} bytes", field="body")
            await refusal(scope, receive, send)
            return
        await self._app(scope, _replayed(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and int(declared[:20]) > self._max_bytes:
            return None
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            body += message.get("body", b"")
            if len(body) > self._max_bytes:
                return None
            if not message.get("more_body", False):
                return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    said = False

    async def replay() -> Message:
        nonlocal said
        if said:
            return await receive()
        said = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _authority(origin: str) -> str:
    return origin.partition("//")[2]


@lru_cache(maxsize=64)
def _is_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
