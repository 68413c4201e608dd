"""Publishes a recording anew: other epochs and numbers, the same story at any speed.

Every recorded stream gets a publisher of its own, so that readers find what they
find at a worker: replays, snapshots, heartbeats with a digest.  A `Reset` becomes
a clearing of all tiers and what was resident then.  Nothing is dropped: at full
speed the replayer waits for the publisher's sender.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from shepherd_events.block_runs import block_size_of
from shepherd_events.events import (
    BlockBatch,
    BlockEvent,
    BlocksCleared,
    BlocksStored,
    Frame,
    Goodbye,
    Notice,
    StreamId,
    StreamInfo,
    TurnCompleted,
)
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.recording import RecordedItem
from shepherd_events.subscription_types import Reset

_MAX_UNSENT_FRAMES = 64
_WAIT_S = 0.002

OpenPublisher = Callable[[StreamId, StreamInfo], KvEventPublisher]
"""A started publisher for a stream; what it raises ends the replay."""


@dataclass(slots=True)
class Replayer:
    """Plays items to publishers, which `close` ends."""

    open_publisher: OpenPublisher
    speed: float = 1.0
    """How many recorded seconds pass in one; infinite for as fast as possible."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    publishers: dict[StreamId, KvEventPublisher] = field(default_factory=dict)
    items: int = 0
    _began: tuple[int, float] | None = None
    """Time of the first item, and when it was played."""

    async def play(self, items: Iterable[RecordedItem]) -> None:
        """Publish items in their order, each when its time has come."""
        for recorded in items:
            await self._wait_for(recorded.unix_ns)
            publisher = self.publishers.get(recorded.stream)
            if publisher is None:
                publisher = await asyncio.to_thread(
                    self.open_publisher, recorded.stream, _info_of(recorded)
                )
                self.publishers[recorded.stream] = publisher
            _publish(publisher, recorded)
            self.items += 1
            while publisher.head_seq - publisher.counters.frames > _MAX_UNSENT_FRAMES:
                await self.sleep(_WAIT_S)

    async def close(self, reason: str) -> None:
        """Say goodbye on every stream."""
        for publisher in self.publishers.values():
            await asyncio.to_thread(publisher.close, reason)

    async def _wait_for(self, unix_ns: int) -> None:
        if self._began is None:
            self._began = unix_ns, self.clock()
        if math.isinf(self.speed):
            return
        first_ns, began = self._began
        due = began + (unix_ns - first_ns) / 1e9 / self.speed
        if (wait := due - self.clock()) > 0:
            await self.sleep(wait)


def _publish(publisher: KvEventPublisher, recorded: RecordedItem) -> None:
    """Tell what an item told."""
    if isinstance(recorded.item, Reset):
        publisher.publish([BlocksCleared(None)])
        for run in recorded.item.blocks:
            publisher.publish([run])
        return
    match recorded.item.body:
        case BlockBatch(events):
            publisher.publish(events)
        case TurnCompleted() as turn:
            publisher.publish_turn(turn)
        case Notice() as notice:
            publisher.publish_notice(notice)
        case Goodbye() | StreamInfo() | _:
            pass


def _info_of(recorded: RecordedItem) -> StreamInfo:
    """What a stream says of itself; a guess where its recording begins in the middle."""
    item = recorded.item
    if isinstance(item, Frame) and isinstance(item.body, StreamInfo):
        return item.body
    events: Sequence[BlockEvent] = ()
    if isinstance(item, Reset):
        events = item.blocks
    elif isinstance(item.body, BlockBatch):
        events = item.body.events
    sizes = [block_size_of(event) for event in events if isinstance(event, BlocksStored)]
    return StreamInfo(model="", block_size=max(sizes, default=0), hash_algo="")
