"""Memory in which records arrive, kept and used again.

A fresh buffer costs a page fault for every 4 KiB of it, which takes longer than
the copy that fills it.  A buffer comes back by itself when the last view of it is
gone, whoever held it.  Never more than `limit_bytes` are lent at once, except
that one buffer may always be; who wants more waits, first come, first served.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import mmap
import weakref
from collections import deque

LIMIT_BYTES = 1 << 30
_KEPT_SHARE = 4
"""Of the limit, one part in so many may lie idle."""
_MIN_BYTES = 1 << 16


class Staging:
    """See the module's docstring; for one event loop, its buffers for everyone."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._bytes_lent = 0
        self._idle: dict[int, list[mmap.mmap]] = {}
        self._returned: deque[mmap.mmap] = deque()
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    @property
    def bytes_lent(self) -> int:
        """Size of the buffers that somebody still sees."""
        return self._bytes_lent - sum(len(memory) for memory in tuple(self._returned))

    async def take(self, num_bytes: int) -> memoryview:
        """A writable buffer with anything in it, once there is room for it."""
        size = max(_MIN_BYTES, 1 << max(0, num_bytes - 1).bit_length())
        async with self._turn:
            self._collect()
            while self._bytes_lent and self._bytes_lent + size > self._limit_bytes:
                self._freed.clear()
                await self._freed.wait()
                self._collect()
            return self._lend(size)[:num_bytes]

    def _lend(self, size: int) -> memoryview:
        idle = self._idle.get(size)
        memory = idle.pop() if idle else _allocate(size)
        self._bytes_lent += size
        lent = (ctypes.c_ubyte * size).from_buffer(memory)
        weakref.finalize(lent, self._give_back, memory, asyncio.get_running_loop())
        return memoryview(lent).cast("B")

    def _give_back(self, memory: mmap.mmap, loop: asyncio.AbstractEventLoop) -> None:
        """Called in whichever thread lets go of the last view."""
        self._returned.append(memory)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._freed.set)

    def _collect(self) -> None:
        while self._returned:
            memory = self._returned.popleft()
            self._bytes_lent -= len(memory)
            kept = sum(size * len(idle) for size, idle in self._idle.items())
            if kept + len(memory) <= self._limit_bytes // _KEPT_SHARE:
                self._idle.setdefault(len(memory), []).append(memory)


def _allocate(size: int) -> mmap.mmap:
    memory = mmap.mmap(-1, size)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
