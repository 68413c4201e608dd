"""Bytes from a socket outside a network namespace to the same port of loopback inside it.

Knows nothing of what is carried.  A connection whose other end cannot be reached is
closed, as if nobody listened.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 64 << 10


class Forwarder:
    """Carries connections while it is entered; its sockets are closed in the end."""

    def __init__(self, listeners: Iterable[socket.socket]) -> None:
        self._listeners = list(listeners)
        self._servers: list[asyncio.Server] = []
        self._carrying: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        for listener in self._listeners:
            self._servers.append(await asyncio.start_server(self._carry, sock=listener))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for server in self._servers:
            server.close()
        carrying = list(self._carrying)
        for task in carrying:
            task.cancel()
        await asyncio.gather(*carrying, return_exceptions=True)

    async def _carry(self, outside: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)
        ends = [answers]
        try:
            port = answers.get_extra_info("sockname")[1]
            with suppress(OSError):
                inside, questions = await asyncio.open_connection("127.0.0.1", port)
                ends.append(questions)
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(_pump(outside, questions))
                    tasks.create_task(_pump(inside, answers))
            for end in ends:
                end.close()
        except asyncio.CancelledError:
            for end in ends:
                end.transport.abort()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Until the source ends, which is then passed on; or either end breaks, which ends both."""
    with suppress(ConnectionError):
        while data := await source.read(_CHUNK_BYTES):
            sink.write(data)
            await sink.drain()
        sink.write_eof()
        return
    sink.transport.abort()
