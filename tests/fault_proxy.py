"""A TCP proxy that a test may stall, cut, and let run again."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Self


class FaultProxy:
    """Between a reader and one port of a publisher; event loop only."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._to_target, self._from_target = asyncio.Event(), asyncio.Event()
        self.open_ways()
        self._cut = False
        self.num_connections = 0
        """Taken so far, those that were reset included."""
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    def stall(self) -> None:
        """Nothing passes in either direction; connections stay."""
        self._to_target.clear()
        self._from_target.clear()

    def stall_answers(self) -> None:
        """What the reader says arrives; nothing comes back."""
        self._from_target.clear()

    def stall_questions(self) -> None:
        """What the reader says does not arrive; it still hears everything."""
        self._to_target.clear()

    def abandon(self) -> None:
        """Connections so far are never heard of again, as of a host that is gone; new ones pass."""
        self.stall()
        self._to_target, self._from_target = asyncio.Event(), asyncio.Event()
        self.open_ways()

    def cut(self) -> None:
        """Connections are reset, and new ones too."""
        self._cut = True
        for writer in self._writers:
            writer.transport.abort()

    def heal(self) -> None:
        """Everything passes again."""
        self._cut = False
        self.open_ways()

    def open_ways(self) -> None:
        """Both directions pass; connections are taken or not as before."""
        self._to_target.set()
        self._from_target.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        ends = [writer]
        self.num_connections += 1
        try:
            if not self._cut:
                with suppress(OSError):
                    source, sink = await asyncio.open_connection("127.0.0.1", self._target_port)
                    ends.append(sink)
                    await self._join(reader, writer, source, sink)
        finally:
            for end in ends:
                end.transport.abort()
            await asyncio.gather(*(end.wait_closed() for end in ends), return_exceptions=True)

    async def _join(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
    ) -> None:
        """Pump both ways until either end closes."""
        self._writers |= {writer, sink}
        pumps = [
            asyncio.ensure_future(self._pump(reader, sink, self._to_target)),
            asyncio.ensure_future(self._pump(source, writer, self._from_target)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._writers -= {writer, sink}
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, is_open: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                await is_open.wait()
                sink.write(data)
                await sink.drain()
