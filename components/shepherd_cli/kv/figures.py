"""What `top` shows of one stream, worked out from its items; pure, the clock is an argument.

Rates are of events that were published within the last seconds, by their own
time stamps, so that what a reader is told of the past counts as past.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from shepherd_events.events import (
    BlockBatch,
    BlocksRemoved,
    BlocksStored,
    Frame,
    Goodbye,
    TurnCompleted,
)
from shepherd_events.subscription_types import Item, Reset

WINDOW_S = 5.0


@dataclass(slots=True)
class StreamFigures:
    """Counts of one stream since its reading began."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    turns: int = 0
    lag_s: float | None = None
    """From publishing to reading of the last frame that was read live."""
    departed: bool = False
    """The publisher said goodbye."""
    _recent: deque[tuple[int, int, int]] = field(default_factory=deque)
    """(time in ns, blocks stored, blocks removed) of each batch of the last seconds."""

    def add(self, item: Item, *, now_unix_ns: int, is_live: bool) -> None:
        """Count one item; a live one tells how far behind the reader is."""
        if isinstance(item, Reset):
            self.departed = False
            return
        self.departed = isinstance(item.body, Goodbye)
        if is_live:
            self.lag_s = max(0.0, (now_unix_ns - item.ts_unix_ns) / 1e9)
        if isinstance(item.body, TurnCompleted):
            self.turns += 1
            self.prompt_tokens += item.body.prompt_tokens
            self.cached_tokens += item.body.cached_tokens
        elif isinstance(item.body, BlockBatch):
            self._add_blocks(item, item.body)
            self._forget(now_unix_ns)

    def rates(self, now_unix_ns: int) -> tuple[float, float]:
        """Blocks stored and removed per second."""
        self._forget(now_unix_ns)
        stored = sum(entry[1] for entry in self._recent)
        removed = sum(entry[2] for entry in self._recent)
        return stored / WINDOW_S, removed / WINDOW_S

    @property
    def hit_rate(self) -> float | None:
        """Share of prompt tokens that were found in the cache; None before the first turn."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else None

    def _add_blocks(self, frame: Frame, batch: BlockBatch) -> None:
        stored = removed = 0
        for event in batch.events:
            if isinstance(event, BlocksStored):
                stored += len(event.block_hashes)
            elif isinstance(event, BlocksRemoved):
                removed += len(event.block_hashes)
        if stored or removed:
            self._recent.append((frame.ts_unix_ns, stored, removed))

    def _forget(self, now_unix_ns: int) -> None:
        horizon = now_unix_ns - round(WINDOW_S * 1e9)
        while self._recent and self._recent[0][0] < horizon:
            self._recent.popleft()
