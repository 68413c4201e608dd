"""The requests in progress, and how each of them ends early.

Dynamo does not throw into a handler when its client leaves, so every wait for
the engine is raced against the request's context.  Leaving the race closes the
engine's iterator, which frees the sequence's blocks within one engine step.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing, suppress
from typing import Protocol, TypeVar

from shepherd_worker.errors import DrainDeadlineError

T = TypeVar("T")


class CallContext(Protocol):
    """What a handler needs of Dynamo's request context."""

    def id(self) -> str:
        """The request's id, equal on all workers that take part in it."""
        ...

    def async_killed_or_stopped(self) -> Awaitable[bool]:
        """Done when the client has left."""
        ...


class InFlight:
    """Counts requests in progress and cuts them at the drain deadline; event loop only."""

    def __init__(self) -> None:
        self._num = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._deadline: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __len__(self) -> int:
        return self._num

    async def until_stopped(
        self, results: AsyncGenerator[T], context: CallContext
    ) -> AsyncIterator[T]:
        """Pass `results` on until they end or the client leaves.

        Raises:
            DrainDeadlineError: the worker's patience ended first.
        """
        stopped = asyncio.ensure_future(context.async_killed_or_stopped())
        self._num += 1
        self._idle.clear()
        try:
            async with aclosing(results):
                while (result := await self._next(results, stopped)) is not _END:
                    yield result  # type: ignore[misc]  # _END is the only other value
        finally:
            stopped.cancel()
            self._num -= 1
            if not self._num:
                self._idle.set()

    async def _next(self, results: AsyncGenerator[T], stopped: asyncio.Future[bool]) -> T | object:
        waiting = asyncio.ensure_future(anext(results, _END))
        try:
            await asyncio.wait(
                (waiting, stopped, self._deadline), return_when=asyncio.FIRST_COMPLETED
            )
            if waiting.done():
                return waiting.result()
        finally:
            if not waiting.done():
                waiting.cancel()
                with suppress(asyncio.CancelledError):
                    await waiting
        if self._deadline.done():
            raise DrainDeadlineError
        return _END

    async def empty(self) -> None:
        """Wait until nothing is in progress."""
        await self._idle.wait()

    async def drained(self, timeout_s: float) -> bool:
        """Wait until nothing is in progress; False when that took too long."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.empty()
        except TimeoutError:
            return False
        return True

    def cut(self) -> None:
        """Make every request in progress raise `DrainDeadlineError` now."""
        if not self._deadline.done():
            self._deadline.set_result(None)


_END = object()
