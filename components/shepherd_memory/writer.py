"""The one thread that writes.

SQLite's transactions block and the consumer's state belongs to one thread; both
live here, so that the event loop never waits for a disk.  Calls run one after
another in the order in which they were made.  A caller that is cancelled does
not stop its call: whatever is asked afterwards still comes after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")


class WriterThread:
    """Runs functions in its thread; leaving the block waits for the last of them."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="memory-writer")

    async def run(self, function: Callable[[], T]) -> T:
        """Call a function in the thread and return what it returns, or raise what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self._executor.shutdown)
