"""What is kept of the streams so that a restart resumes, whatever keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from shepherd_events.events import StreamId
from shepherd_events.stream_cursor import Position
from shepherd_memory.block_index import BlockIndex
from shepherd_memory.eviction import TurnKey


class StreamState(Protocol):
    """Block index, positions and ends of sessions; writer thread only."""

    def load(self) -> tuple[BlockIndex, dict[StreamId, Position], set[TurnKey]]:
        """What the last committed batch left."""
        ...

    def save(
        self, index: BlockIndex, positions: Mapping[StreamId, Position], ended: set[TurnKey]
    ) -> None:
        """Commit what the index has touched since the last call, and where all streams stand.

        `ended` are the newest turns of the sessions that have ended.

        Raises:
            StoreUnavailableError: it cannot be used just now; nothing was saved.
        """
        ...

    def close(self) -> None:
        """Let go of it; idempotent."""
        ...
