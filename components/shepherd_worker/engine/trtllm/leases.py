"""Handoffs whose blocks wait to be fetched, as far as TensorRT-LLM lets that be known.

It does not say when a decode worker has fetched a prompt.  It does say how many
blocks are in use after each of its iterations: once that was above zero for a
handoff, and is zero with no request under way, nobody waits any more, neither for
a fetch nor for a refusal.  Until then a lease counts until its time is over,
which is TensorRT-LLM's own limit for a transfer.

    lease           waiting + 1, seen held if blocks were in use just now
    used(n > 0)     seen held
    used(0)         waiting = 0, if it was seen held and nothing runs
    time is over    waiting - 1

Event loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Leases:
    """See the module's docstring."""

    def __init__(self, lease_s: float, changed: Callable[[], None]) -> None:
        """`changed` is called when a lease ends."""
        self.expired_total = 0
        """Leases that ended with their time."""
        self._lease_s = lease_s
        self._changed = changed
        self._waiting: set[asyncio.TimerHandle] = set()
        self._num_used = 0
        self._seen_held = False
        """An iteration of before the handoff may still be told after it."""

    def __len__(self) -> int:
        return len(self._waiting)

    def lease(self) -> None:
        """A handoff was made: its blocks wait."""
        handle: asyncio.TimerHandle
        handle = asyncio.get_running_loop().call_later(self._lease_s, lambda: self._expire(handle))
        self._waiting.add(handle)
        self._seen_held = self._num_used > 0

    def used(self, num_used: int, num_calls: int) -> None:
        """So many blocks were in use after an iteration; so many requests are under way now."""
        self._num_used = num_used
        if num_used:
            self._seen_held = True
        elif self._waiting and self._seen_held and not num_calls:
            self.clear()
            self._changed()

    def clear(self) -> None:
        """Nobody waits any more."""
        for handle in self._waiting:
            handle.cancel()
        self._waiting.clear()

    def _expire(self, handle: asyncio.TimerHandle) -> None:
        self._waiting.discard(handle)
        self.expired_total += 1
        self._changed()
