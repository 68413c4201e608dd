"""One thread with an event loop of its own.

Moving a prompt's KV keeps a core busy for tens of milliseconds; the loop that
streams tokens to clients must not wait for it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """See the module's docstring; all methods are for other threads."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)

    def start(self) -> None:
        """Begin to run what is given."""
        self._thread.start()

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine that runs in the thread; cancelling cancels it there.

        Raises:
            ConnectionAbortedError: the thread was stopped meanwhile.
        """
        running = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return await asyncio.wrap_future(running)
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            raise ConnectionAbortedError("the thread has been stopped") from None

    def call(self, callback: Callable[..., object], *arguments: object) -> None:
        """Run a callback in the thread soon."""
        self._loop.call_soon_threadsafe(callback, *arguments)

    def call_later(
        self, delay_s: float, callback: Callable[..., object], *arguments: object
    ) -> None:
        """Run a callback in the thread after a while, unless it has stopped by then."""
        self.call(self._loop.call_later, delay_s, callback, *arguments)

    async def stop(self) -> None:
        """Cancel what still runs, and end the thread."""
        await self.run(_cancel_others())
        self.call(self._loop.stop)
        await asyncio.to_thread(self._thread.join)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()


def _is_cancelled() -> bool:
    """Whether somebody wants this task to end; no local may keep a task with its own traceback."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
