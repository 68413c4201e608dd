"""Counts what the workers' streams say, for a person to look at."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from shepherd_events.discovery import StreamDirectory, StreamJoined
from shepherd_events.events import BlockBatch, BlocksRemoved, BlocksStored, Frame, StreamId
from shepherd_events.follow import StreamItem, follow
from shepherd_events.subscriber import Reset


@dataclass(slots=True)
class CacheView:
    """What one worker's stream has said so far."""

    role: str
    stored: int = 0
    removed: int = 0

    @property
    def resident(self) -> int:
        """Blocks that the worker holds now."""
        return self.stored - self.removed

    def apply(self, item: Frame | Reset) -> None:
        """Count one item of the stream."""
        if isinstance(item, Reset):
            self.stored, self.removed = sum(len(run.block_hashes) for run in item.blocks), 0
        elif isinstance(item.body, BlockBatch):
            for event in item.body.events:
                match event:
                    case BlocksStored():
                        self.stored += len(event.block_hashes)
                    case BlocksRemoved():
                        self.removed += len(event.block_hashes)
                    case _:
                        pass


@dataclass(slots=True)
class StreamWatcher:
    """Follows every stream of a directory; run it as a task and cancel it."""

    directory: StreamDirectory
    views: dict[StreamId, CacheView] = field(default_factory=dict)

    async def run(self) -> None:
        """Follow streams as they join and leave."""
        async with follow(self.directory) as changes:
            async for change in changes:
                match change:
                    case StreamJoined(descriptor):
                        view = CacheView(descriptor.role)
                        self.views.setdefault(descriptor.address.stream, view)
                    case StreamItem(stream=stream, item=item):
                        self.views[stream].apply(item)
                    case _:
                        pass

    def totals(self) -> Counter[str]:
        """Blocks stored and removed over all streams."""
        total: Counter[str] = Counter()
        for view in self.views.values():
            total["stored"] += view.stored
            total["removed"] += view.removed
        return total
