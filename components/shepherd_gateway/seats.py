"""How many requests are served at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class NoSeatError(Exception):
    """Everything is taken."""


class Seats:
    """A bounded number of them; for one thread."""

    def __init__(self, limit: int, *, on_change: Callable[[int], None] = lambda _: None) -> None:
        """`on_change` is told how many are taken."""
        self._limit = limit
        self._on_change = on_change
        self.taken = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Have a seat.

        Raises:
            NoSeatError: there is none.
        """
        if self.taken >= self._limit:
            raise NoSeatError(f"{self._limit} requests are being served, more are refused")
        self._move(1)
        try:
            yield
        finally:
            self._move(-1)

    def _move(self, by: int) -> None:
        self.taken += by
        self._on_change(self.taken)
