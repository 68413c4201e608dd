"""Iterators over what the engine reports, which end when it has been silent for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from trtllm_backend.variants import VARIANT

POLL_S = 0.001


class IterationResult:
    """In older versions an iterator that has ended stays so until a request comes."""

    def __init__(self, take: Callable[[], dict[str, Any] | None]) -> None:
        self._take = take
        self._timeout: float = 2
        self._done = False

    def within(self, timeout: float | None) -> IterationResult:
        self._timeout = 2 if timeout is None else timeout
        if not VARIANT.iterates_once:
            self._done = False
        return self

    def mark_undone(self) -> None:
        self._done = False

    def drain(self, timeout: float | None) -> list[dict[str, Any]]:
        self.within(timeout)
        rows = []
        while (row := self._take()) is not None:
            rows.append(row)
        return rows

    def __aiter__(self) -> IterationResult:
        return self

    async def __anext__(self) -> dict[str, Any]:
        deadline = time.monotonic() + self._timeout
        while not self._done:
            if (row := self._take()) is not None:
                return row
            if time.monotonic() >= deadline:
                self._done = True
            else:
                await asyncio.sleep(POLL_S)
        raise StopAsyncIteration
