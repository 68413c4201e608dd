"""A foreign publisher in memory, whose wire loses what it is told to; for tests and trials."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

from shepherd_events.errors import NoAnswerError
from shepherd_events.foreign.source import Connected, Disconnected, Message, SourceEvent


class MemorySource:
    """See `ForeignSource`; what it hands out is what `send`, `restart` and `leave` made happen."""

    def __init__(self, *, ring_messages: int = 100, can_replay: bool = True) -> None:
        self.can_replay = can_replay
        self.num_foreign = 0
        self.answers = True
        """Whether replays are answered."""
        self.replay_losses: set[int] = set()
        """Numbers that the next replays leave out."""
        self._ring_messages = ring_messages
        self._happened: deque[SourceEvent] = deque([Connected()])
        self._ring: deque[Message] = deque(maxlen=ring_messages)
        self._next_seq = 0

    def send(self, payload: bytes, *, live: bool = True) -> None:
        """Number a message, keep it, and hand it out or lose it."""
        message = Message(self._next_seq, payload)
        self._next_seq += 1
        self._ring.append(message)
        if live:
            self._happened.append(message)

    def restart(self, *, told: bool = True) -> None:
        """Begin another run; behind a proxy nobody is told."""
        if told:
            self._happened += (Disconnected(), Connected())
        self._ring.clear()
        self._next_seq = 0

    def leave(self) -> None:
        """Go away."""
        self._happened.append(Disconnected())

    def come_back(self) -> None:
        """Be there again, the same run."""
        self._happened.append(Connected())

    @property
    def num_waiting(self) -> int:
        """What has not been handed out."""
        return len(self._happened)

    async def next(self, timeout_s: float) -> SourceEvent | None:
        """See `ForeignSource`; does not wait."""
        del timeout_s
        await asyncio.sleep(0)
        return self._happened.popleft() if self._happened else None

    async def replay(self, first: int) -> AsyncGenerator[Message, None]:
        """See `ForeignSource`."""
        for message in list(self._ring):
            if not self.answers:
                break
            if message.seq >= first and message.seq not in self.replay_losses:
                yield message
        if not self.answers:
            raise NoAnswerError("memory", 0.0)

    async def close(self) -> None:
        """Nothing is held."""
