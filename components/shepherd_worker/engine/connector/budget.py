"""Room for blocks in memory, given out in the order in which it is asked for.

For one event loop.  Conservation law: free + taken = limit; nobody waits while
the first one's wish fits.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Budget:
    """See the module's docstring."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.free = limit
        self._waiting: deque[tuple[int, asyncio.Future[bool]]] = deque()
        self._closed = False

    @property
    def num_waiting(self) -> int:
        """How many wait for room."""
        return len(self._waiting)

    async def take(self, amount: int) -> bool:
        """Wait for room, at most the limit, and take it; False when it is closed first."""
        assert 0 <= amount <= self.limit
        if self._closed:
            return False
        if not self._waiting and amount <= self.free:
            self.free -= amount
            return True
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        wish = (amount, turn)
        self._waiting.append(wish)
        try:
            return await turn
        except asyncio.CancelledError:
            if wish in self._waiting:
                self._waiting.remove(wish)
                self._serve()
            elif not turn.cancelled() and turn.result():
                self.give(amount)
            raise

    def give(self, amount: int) -> None:
        """Give room back."""
        self.free += amount
        assert self.free <= self.limit
        self._serve()

    def close(self) -> None:
        """Let nobody wait any more."""
        self._closed = True
        while self._waiting:
            _, turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(False)

    def _serve(self) -> None:
        while self._waiting and self._waiting[0][0] <= self.free:
            amount, turn = self._waiting.popleft()
            if not turn.done():
                self.free -= amount
                turn.set_result(True)

    def __repr__(self) -> str:
        return f"<Budget {self.free} of {self.limit} free, {self.num_waiting} waiting>"
