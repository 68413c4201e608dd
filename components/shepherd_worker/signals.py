"""SIGTERM and SIGINT as something to await: the first asks, the second insists."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Final, Self, TypeVar

T = TypeVar("T")
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Counts stop signals while it is entered; event loop only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._received = (asyncio.Event(), asyncio.Event())

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._loop.add_signal_handler(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number in _SIGNALS:
            self._loop.remove_signal_handler(number)

    def _receive(self) -> None:
        first, second = self._received
        (second if first.is_set() else first).set()

    async def first(self) -> None:
        """Wait for the first signal."""
        await self._received[0].wait()

    async def unless_stopped(self, work: Coroutine[Any, Any, T], *, after: int = 1) -> T | None:
        """The result of `work`; None where signal number `after` came first and cancelled it."""
        working = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._received[after - 1].wait())
        try:
            await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            stopping.cancel()
            if not working.done():
                working.cancel()
                await asyncio.wait((working,))
