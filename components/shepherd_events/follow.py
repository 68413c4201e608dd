"""Many streams at once: every one that a directory shows, each from where it was left.

One task a stream reads its subscription into one bounded queue: when that is
full the tasks wait, frames wait in the transports, and what overflows there is
a gap that the subscription repairs.

    directory says       what is done                          handed out
    --------------       -----------------------------------   ------------
    joined, new          read from its stored position on      StreamJoined
    joined, same place   nothing                               -
    joined, moved        read the new place from there on      StreamJoined
    left                 stop, after what was read of it       StreamLeft
    fails                ask again, later and later            -

A worker that is frozen does not speak: its stream is STALE until it does, or until its
lease ends and the directory says that it left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from shepherd_events.cursor_store import CursorStore
from shepherd_events.discovery import (
    DirectoryEvent,
    StreamDescriptor,
    StreamDirectory,
    StreamJoined,
    StreamLeft,
)
from shepherd_events.errors import KvEventsError
from shepherd_events.event_filter import EventFilter, StreamFilter
from shepherd_events.events import StreamAddress, StreamId
from shepherd_events.resident_set import ResidentSet
from shepherd_events.stream_cursor import Position
from shepherd_events.subscriber import Subscription, subscribe
from shepherd_events.subscription_types import Item, Patience, StreamState, SubscriptionCounters
from shepherd_events.transcript import TokenizerAssets
from shepherd_events.transports import connect as connect_by_address
from shepherd_events.transports.protocol import Connect

if TYPE_CHECKING:
    from shepherd_events.tenant_keys import TenantKeys

logger = logging.getLogger(__name__)

_FIRST_RETRY_S = 0.2
_LAST_RETRY_S = 10.0
_DEFAULT_PATIENCE = Patience()


@dataclass(frozen=True, slots=True)
class StreamItem:
    """One item of one of the streams."""

    stream: StreamId
    item: Item
    position: Position
    """Of the item."""


Change = StreamJoined | StreamItem | StreamLeft


class FixedDirectory:
    """Streams whose addresses are known, which neither join nor leave."""

    def __init__(self, addresses: Iterable[StreamAddress]) -> None:
        self._addresses = tuple(addresses)

    async def watch(self) -> AsyncIterator[DirectoryEvent]:
        """See `StreamDirectory.watch`."""
        for address in self._addresses:
            yield StreamJoined(StreamDescriptor(address, role="", model="", block_size=0))
        await asyncio.Event().wait()

    async def tokenizer_assets(self, stream: StreamId) -> TokenizerAssets:
        """Nobody answers: an address says nothing of the worker.

        Raises:
            ConnectionError: always.
        """
        raise ConnectionError(f"the worker of {stream} is not known, only its stream's address")


Subscribe = Callable[..., AbstractAsyncContextManager[Subscription]]
"""`subscribe`, with what is the same for every stream."""


class FollowedStream:
    """How reading one stream does; changes as it goes on."""

    def __init__(
        self,
        descriptor: StreamDescriptor,
        position: Position | None,
        residents: ResidentSet | None,
    ) -> None:
        self.descriptor = descriptor
        self.position = position
        """Of the last item read; None before the first."""
        self.residents = residents
        """What the stream's cache held at `position`, where that is kept."""
        self.failures = 0
        """Times that the subscription ended with an error and was begun again."""
        self._subscription: Subscription | None = None

    @property
    def stream(self) -> StreamId:
        """Whose stream it is."""
        return self.descriptor.address.stream

    @property
    def state(self) -> StreamState:
        """STALE also while there is no subscription."""
        return self._subscription.state if self._subscription else StreamState.STALE

    @property
    def num_behind(self) -> int:
        """Frames that are known to exist and were not read."""
        return self._subscription.num_behind if self._subscription else 0

    @property
    def counters(self) -> SubscriptionCounters:
        """Totals since the subscription began."""
        return self._subscription.counters if self._subscription else SubscriptionCounters()

    async def read(
        self, subscribe: Subscribe, put: Callable[[StreamItem], Awaitable[None]], *, from_head: bool
    ) -> None:
        """Read until cancelled, and begin again where it fails."""
        retry_s = _FIRST_RETRY_S
        while True:
            before = self.position
            try:
                await self._read_once(subscribe, put, from_head and before is None)
            except KvEventsError as error:
                logger.warning("stream %s cannot be read: %s", self.stream, error)
            except Exception:
                logger.exception("reading stream %s failed", self.stream)
            self.failures += 1
            await asyncio.sleep(retry_s)
            progress = self.position != before
            retry_s = _FIRST_RETRY_S if progress else min(2 * retry_s, _LAST_RETRY_S)

    async def _read_once(
        self, subscribe: Subscribe, put: Callable[[StreamItem], Awaitable[None]], from_head: bool
    ) -> None:
        opening = subscribe(
            self.descriptor.address,
            after=self.position,
            from_head=from_head,
            residents=self.residents,
        )
        try:
            async with opening as self._subscription:
                async for item in self._subscription:
                    position = self._subscription.position
                    await put(StreamItem(self.stream, item, position))
                    self.position = position
        finally:
            self._subscription = None


@asynccontextmanager
async def follow(
    directory: StreamDirectory,
    *,
    from_head: bool = False,
    keep_residents: bool = False,
    cursors: CursorStore | None = None,
    save_every_s: float = 1.0,
    max_waiting: int = 256,
    wanted: EventFilter | None = None,
    keys: TenantKeys | None = None,
    patience: Patience = _DEFAULT_PATIENCE,
    connect: Connect = connect_by_address,
) -> AsyncIterator[StreamFollower]:
    """Read every stream of a directory, for one consumer.

    `from_head` leaves out what a stream said before it was found.  With `cursors`
    each stream goes on where it was left; what was handed out counts as dealt
    with when the next change is asked for, and is saved then, at the latest
    `save_every_s` seconds later and in the end.  At most `max_waiting` changes wait.
    `wanted` leaves out what does not match: streams of other workers are not read at
    all, and what is left out of a stream counts as dealt with.  `keys` open sealed
    tokens, as `subscribe` says.

    Raises:
        OSError, KvEventsError: `cursors` cannot be read.
    """
    positions = await asyncio.to_thread(cursors.load) if cursors else {}
    follower = StreamFollower(
        directory,
        positions,
        partial(subscribe, keys=keys, patience=patience, connect=connect),
        from_head=from_head,
        keep_residents=keep_residents,
        max_waiting=max_waiting,
        wanted=wanted,
    )
    tasks = [asyncio.create_task(follower.run())]
    if cursors is not None:
        tasks.append(asyncio.create_task(_save_regularly(follower, cursors, save_every_s)))
    try:
        yield follower
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if cursors is not None:
            await asyncio.to_thread(cursors.save, dict(follower.finished))


class StreamFollower:
    """An endless iterator of changes; may be cancelled at any one and asked again."""

    def __init__(
        self,
        directory: StreamDirectory,
        positions: dict[StreamId, Position],
        subscribe: Subscribe,
        *,
        from_head: bool,
        keep_residents: bool,
        max_waiting: int,
        wanted: EventFilter | None,
    ) -> None:
        self._directory = directory
        self._subscribe = subscribe
        self._from_head = from_head
        self._keep_residents = keep_residents
        self._queue: asyncio.Queue[Change] = asyncio.Queue(max_waiting)
        self._tasks: dict[StreamId, asyncio.Task[None]] = {}
        self._wanted = wanted
        self._filters: dict[StreamId, StreamFilter] = {}
        self._handed_out: StreamItem | None = None
        self.finished = positions
        """Where each stream was left: the last item that the consumer has dealt with."""
        self.streams: dict[StreamId, FollowedStream] = {}
        """The streams that exist now."""
        self.directory_failures = 0
        """Times that the directory failed and was asked again."""

    def __aiter__(self) -> StreamFollower:
        return self

    def finish(self) -> None:
        """The last change was dealt with, though no other is asked for."""
        if (done := self._handed_out) is not None:
            self.finished[done.stream] = done.position
            self._handed_out = None

    async def __anext__(self) -> Change:
        while True:
            self.finish()
            change = await self._queue.get()
            if isinstance(change, StreamItem):
                self._handed_out = change
            shown = self._filtered(change)
            if shown is not None:
                return shown

    def _filtered(self, change: Change) -> Change | None:
        """What is left of a change, as its stream's filter has it."""
        if self._wanted is None or isinstance(change, StreamJoined):
            return change
        if isinstance(change, StreamLeft):
            self._filters.pop(change.stream, None)
            return change
        known = self._filters.setdefault(change.stream, StreamFilter(self._wanted))
        item = known.apply(change.item)
        return None if item is None else replace(change, item=item)

    async def run(self) -> None:
        """Follow the directory until cancelled; then every stream is let go."""
        retry_s = _FIRST_RETRY_S
        try:
            while True:
                try:
                    async for event in self._directory.watch():
                        retry_s = _FIRST_RETRY_S
                        await self._take(event)
                except ConnectionError as error:
                    logger.warning("streams cannot be found: %s", error)
                except Exception:
                    logger.exception("finding streams failed")
                self.directory_failures += 1
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, _LAST_RETRY_S)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _take(self, event: DirectoryEvent) -> None:
        if isinstance(event, StreamLeft):
            if event.stream in self.streams:
                await self._let_go(event.stream)
                del self.streams[event.stream]
                await self._queue.put(event)
            return
        descriptor = event.descriptor
        stream = descriptor.address.stream
        if self._wanted is not None and not self._wanted.wants(stream):
            return
        before = self.streams.get(stream)
        if before is not None:
            if before.descriptor.address == descriptor.address:
                return
            await self._let_go(stream)
        self.streams[stream] = self._followed(descriptor, before)
        await self._queue.put(event)
        reading = self.streams[stream].read(
            self._subscribe, self._queue.put, from_head=self._from_head
        )
        self._tasks[stream] = asyncio.create_task(reading)

    def _followed(
        self, descriptor: StreamDescriptor, before: FollowedStream | None
    ) -> FollowedStream:
        """The reader of a stream that is new, or has moved."""
        if before is not None:
            return FollowedStream(descriptor, before.position, before.residents)
        return FollowedStream(
            descriptor,
            position=self.finished.get(descriptor.address.stream),
            residents=ResidentSet() if self._keep_residents else None,
        )

    async def _let_go(self, stream: StreamId) -> None:
        """Stop reading a stream; when this returns nothing of it comes any more."""
        if task := self._tasks.pop(stream, None):
            task.cancel()
            await asyncio.wait([task])


async def _save_regularly(follower: StreamFollower, cursors: CursorStore, every_s: float) -> None:
    saved = dict(follower.finished)
    while True:
        await asyncio.sleep(every_s)
        positions = dict(follower.finished)
        if positions == saved:
            continue
        try:
            await asyncio.to_thread(cursors.save, positions)
        except OSError as error:
            logger.warning("positions not saved, tried again in %g s: %s", every_s, error)
        else:
            saved = positions
