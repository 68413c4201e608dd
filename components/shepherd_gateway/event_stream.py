"""Answers to clients that may leave at any time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class EventStream(Response):
    """Server-sent events; `close` is called once, whether or not the first was ever sent."""

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[bytes],
        *,
        headers: Mapping[str, str],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no", **headers})
        self._events = events
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end or the client leaves."""
        del scope
        head = {"status": self.status_code, "headers": self.raw_headers}
        try:
            async with while_there(receive):
                await send({"type": "http.response.start", **head})
                async for event in self._events:
                    await send({"type": "http.response.body", "body": event, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except ClientDisconnect:
            return
        finally:
            await self._close()


@asynccontextmanager
async def while_there(receive: Receive) -> AsyncIterator[None]:
    """The block is cancelled as soon as the client leaves.

    Raises:
        ClientDisconnect: the client left.
    """

    async def leave() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        until_left.reschedule(asyncio.get_running_loop().time())

    try:
        async with asyncio.timeout(None) as until_left:
            leaving = asyncio.create_task(leave())
            try:
                yield
            finally:
                leaving.cancel()
    except TimeoutError as error:
        if until_left.expired():
            raise ClientDisconnect from error
        raise
