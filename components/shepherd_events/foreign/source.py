"""What a bridge needs of a foreign publisher: what it sends, and what it can repeat."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Connected:
    """Somebody listens at the publisher's address; perhaps another than before."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """Nobody is there any more."""


@dataclass(frozen=True, slots=True)
class Message:
    """One numbered message."""

    seq: int
    payload: bytes


SourceEvent = Connected | Disconnected | Message


class ForeignSource(Protocol):
    """The receiving end; belongs to one event loop and reconnects by itself."""

    @property
    def can_replay(self) -> bool:
        """Whether there is anything to ask."""
        ...

    @property
    def num_foreign(self) -> int:
        """Messages so far that have not the parts of a numbered one."""
        ...

    async def next(self, timeout_s: float) -> SourceEvent | None:
        """What happened next, a change of the connection before any message; None for nothing."""
        ...

    def replay(self, first: int) -> AsyncGenerator[Message, None]:
        """What the publisher still has of [first, ...), up to its end; one at a time.

        Raises:
            NoAnswerError: nothing came for a while, and the end is not reached.
        """
        ...

    async def close(self) -> None:
        """Give everything back; twice is harmless."""
        ...
