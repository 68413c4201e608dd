"""Runs an ASGI application under uvicorn until cancelled.

Signals belong to the process's entry point, not to uvicorn.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from shepherd_http.connection import Connection

CLOSING_S = 2
"""How long open requests may take to end when a service stops, unless it says otherwise."""
KEEP_ALIVE_S = 75
"""How long an idle connection stays open: longer than any usual client keeps one, so that none
sends a request into a connection that is being closed."""


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals to the entry point."""
        yield


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Its connections send at once: asyncio asks for that only of sockets that name their protocol,
    and an answer's body would wait 40 ms for the acknowledgement of its head.

    Raises:
        OSError: the address is taken or is not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=128)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def url_of(listener: socket.socket) -> str:
    """Where a listener can be reached."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve_http(
    app: ASGIApp,
    listener: socket.socket,
    on_stop: Callable[[], None],
    *,
    closing_s: int = CLOSING_S,
) -> None:
    """Serve until cancelled, then tell waiting requests through `on_stop` and let them end."""
    server = _Server(
        uvicorn.Config(
            app,
            http=Connection,
            timeout_keep_alive=KEEP_ALIVE_S,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=closing_s,
        )
    )
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(serving)
    finally:
        on_stop()
        server.should_exit = True
        await serving
