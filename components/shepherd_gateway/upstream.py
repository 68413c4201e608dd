"""Dynamo's frontend, or several of them, as the gateway asks it.

Until the first byte has come nothing is lost: a frontend that cannot be reached,
breaks off or says that it has no worker just now is asked again, another one if
there is one.  Afterwards the client must be told.  Leaving the block, or being
cancelled in it, closes the connection, which stops the generation.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import aiohttp
import msgspec

from shepherd_gateway.errors import UpstreamError
from shepherd_gateway.sse import Event, EventTooLargeError, Splitter
from shepherd_telemetry.spans import NO_SPANS, Kind, Span, Spans
from shepherd_telemetry.trace_context import current

log = logging.getLogger(__name__)

TRIES = 2
CONNECT_S = 5.0
_AGAIN = frozenset({502, 503, 504})
_RETRY_AFTER = re.compile(r"retry after (\d+)")
_BROKEN = (aiohttp.ClientError, TimeoutError, ConnectionError)


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    status: int
    body: bytes
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class _Begun:
    answer: aiohttp.ClientResponse
    first: bytes
    """What has been read of the body."""


class Upstream:
    """Asks frontends in turn."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        timeout_s: float,
        pause_s: float = 0.1,
        on_retry: Callable[[], None] = lambda: None,
        spans: Spans = NO_SPANS,
    ) -> None:
        """`timeout_s` is for the silence before the first byte and between any two."""
        self._urls = tuple(url.rstrip("/") for url in urls)
        self._timeout_s = timeout_s
        self._pause_s = pause_s
        self._on_retry = on_retry
        self._spans = spans
        self._turn = 0

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Upstream]:
        """Be ready to ask."""
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_S, sock_read=self._timeout_s
        )
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
        async with aiohttp.ClientSession(
            timeout=timeout, connector=connector, auto_decompress=True, read_bufsize=1 << 16
        ) as self._http:
            yield self

    async def get(self, path: str, *, timeout_s: float | None = None) -> Reply:
        """A document of the frontend's.

        Raises:
            UpstreamError: it does not answer.
        """
        try:
            async with asyncio.timeout(timeout_s), self._http.get(self._next() + path) as answer:
                return Reply(answer.status, await answer.read(), answer.content_type)
        except _BROKEN as error:
            raise _unreachable(error) from error

    async def ask(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
        """The answer to a chat completion request that does not stream.

        Raises:
            UpstreamError: it was refused, or nobody answers.
        """
        async with self._begun(body, headers) as begun:
            try:
                document = msgspec.json.decode(await begun.answer.read())
            except (*_BROKEN, msgspec.DecodeError) as error:
                raise UpstreamError(502, "the answer broke off", reason="broken_off") from error
        if not isinstance(document, dict):
            raise UpstreamError(502, "the answer is no object", reason="broken_off")
        return document

    @asynccontextmanager
    async def stream(
        self, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> AsyncIterator[AsyncIterator[list[Event]]]:
        """The events of a chat completion request that streams, as they come together.

        Something has come when the block is entered.

        Raises:
            UpstreamError: it was refused, or nobody answers; in the block, that it broke off.
        """
        async with self._begun(body, headers, peek=True) as begun:
            yield _events(begun)

    @asynccontextmanager
    async def _begun(
        self, body: Mapping[str, Any], headers: Mapping[str, str], *, peek: bool = False
    ) -> AsyncIterator[_Begun]:
        encoded = msgspec.json.encode(body)
        sent = {"content-type": "application/json", **headers}
        async with AsyncExitStack() as opened:
            span = opened.enter_context(self._span(sent))
            for left in reversed(range(TRIES)):
                try:
                    begun = await self._try(opened, encoded, sent, peek=peek)
                    break
                except UpstreamError as error:
                    if not left or error.reason not in {"unreachable", "no_worker"}:
                        raise
                    log.info("upstream asked again: %s", error.reason)
                    self._on_retry()
                    await asyncio.sleep(self._pause_s)
            span.set({"gen_ai.request.model": str(body.get("model", ""))})
            yield begun

    @contextmanager
    def _span(self, sent: dict[str, str]) -> Iterator[Span]:
        """A span that the frontend is told of; its model's name is noted once that is known there.

        Which span the code works for is left alone: a stream is begun in one task and read in
        another.
        """
        own = {"gen_ai.operation.name": "chat"}
        span = self._spans.start("chat", Kind.CLIENT, parent=current(), attributes=own)
        if span.context is not None:
            sent["traceparent"] = span.context.traceparent
        failure = ""
        try:
            yield span
        except BaseException as error:
            failure = type(error).__name__
            raise
        finally:
            span.end(failure)

    async def _try(
        self, opened: AsyncExitStack, body: bytes, headers: Mapping[str, str], *, peek: bool
    ) -> _Begun:
        url = self._next() + "/v1/chat/completions"
        async with AsyncExitStack() as attempt:
            try:
                answer = await attempt.enter_async_context(
                    self._http.post(url, data=BytesIO(body), headers=headers)
                )
                acknowledge(answer)
                if answer.status >= 400:
                    raise _refusal(answer.status, await answer.text(errors="replace"))
                first = await answer.content.readany() if peek else b""
                if peek and not first:
                    raise _unreachable(None)
            except _BROKEN as error:
                raise _unreachable(error) from error
            opened.push_async_exit(attempt.pop_all())
        return _Begun(answer, first)

    def _next(self) -> str:
        self._turn += 1
        return self._urls[self._turn % len(self._urls)]


async def _events(begun: _Begun) -> AsyncIterator[list[Event]]:
    """Raises UpstreamError where the stream ends without its end."""
    splitter = Splitter()
    chunk = begun.first
    try:
        while chunk:
            if events := splitter.feed(chunk):
                yield events
                if events[-1].is_done:
                    return
            acknowledge(begun.answer)
            chunk = await begun.answer.content.readany()
    except (*_BROKEN, EventTooLargeError) as error:
        raise UpstreamError(502, "the answer broke off", reason="broken_off") from error
    raise UpstreamError(502, "the answer ended before its end", reason="broken_off")


def acknowledge(answer: aiohttp.ClientResponse) -> None:
    """Tell the frontend's kernel at once what has come.

    The frontend does not send a small piece before the one ahead of it is acknowledged (it sets no
    TCP_NODELAY), and over a connection that was used a moment ago ours would wait 40 ms for
    something to send along.  Linux forgets the wish after a while, so it is said at every piece.
    """
    transport = answer.connection.transport if answer.connection is not None else None
    connected = transport.get_extra_info("socket") if transport is not None else None
    if connected is not None and connected.family != socket.AF_UNIX:
        with suppress(OSError):  # closed meanwhile
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def refusal_in(document: Any) -> UpstreamError | None:
    """The refusal that an event of a stream tells, if it does."""
    if not isinstance(document, dict) or "choices" in document:
        return None
    if "error" not in document and "message" not in document:
        return None
    error = document.get("error", document)
    fields = error if isinstance(error, dict) else {"message": error}
    code = fields.get("code")
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    return _refusal(status, str(fields.get("message", "the answer broke off")))


def _refusal(status: int, text: str) -> UpstreamError:
    message = _message_of(text)
    headers = {}
    if status == 429:
        found = _RETRY_AFTER.search(message)
        headers["retry-after"] = found[1] if found else "1"
    elif status == 503:
        headers["retry-after"] = "1"
    reason = {429: "overloaded"}.get(status, "no_worker" if status in _AGAIN else "refused")
    return UpstreamError(status, message, reason=reason, headers=headers)


def _message_of(text: str) -> str:
    try:
        document = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text[:1000] or "no reason given"
    if isinstance(document, dict):
        inner = document.get("error", document)
        found = inner.get("message") if isinstance(inner, dict) else inner
        if isinstance(found, str):
            return found
    return text[:1000]


def _unreachable(error: BaseException | None) -> UpstreamError:
    said = type(error).__name__ if error else "it ended before its first byte"
    is_slow = isinstance(error, TimeoutError)
    if is_slow and not isinstance(error, aiohttp.ConnectionTimeoutError):
        return UpstreamError(504, f"the frontend does not answer: {said}", reason="timeout")
    return UpstreamError(502, f"the frontend cannot be reached: {said}", reason="unreachable")
