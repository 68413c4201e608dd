"""Reads every stream that the directory shows, and says how each of them does.

One task a stream; what it receives goes to the applier in order.  A stream that
fails is begun again from where it stood, later and later.  A stream that leaves,
or that the last run knew and nobody has seen since, is ended.

    directory says       reader            applier is given
    --------------       ------            ----------------
    joined, new          started           frames after the stored position
    joined, same place   left alone        -
    joined, moved        started anew      frames after the last one
    left                 stopped           StreamEnded
    nothing, settle_s    -                 StreamEnded, for streams of the last run
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from shepherd_events.discovery import StreamDirectory, StreamJoined, StreamLeft
from shepherd_events.errors import KvEventsError
from shepherd_events.events import Frame, StreamAddress, StreamId, StreamInfo, TierState
from shepherd_events.subscriber import (
    Item,
    Position,
    StreamState,
    Subscription,
    subscribe,
)
from shepherd_events.transcript import TokenizerAssets
from shepherd_events.transports.protocol import Connect
from shepherd_memory.applier import Applier
from shepherd_memory.arrivals import Arrival, StreamEnded, StreamReplaced
from shepherd_memory.metrics import Metrics
from shepherd_memory.recorder import Transcript

if TYPE_CHECKING:
    from shepherd_events.tenant_keys import TenantKeys

log = logging.getLogger(__name__)

FIRST_RETRY_S = 0.2
LAST_RETRY_S = 10.0

MakeTranscript = Callable[[TokenizerAssets], Transcript]

HoldsOf = Callable[[StreamId, Position], tuple[TierState, ...] | None]
"""The digest of what is indexed of a stream at a position; None where that is not known."""


@dataclass(frozen=True, slots=True)
class StreamReport:
    """How reading one stream does."""

    stream: StreamId
    epoch: int
    state: str
    """"connecting", or a `StreamState`."""
    received: Position | None
    """The last frame that was handed to the applier."""

    @property
    def is_followed(self) -> bool:
        """Whether what the worker does reaches us."""
        return self.state in {StreamState.LIVE, StreamState.CATCHING_UP}


class Transcripts:
    """One transcript reader per model, by stream; writer thread reads, event loop fills."""

    def __init__(self, directory: StreamDirectory, make: MakeTranscript) -> None:
        self._directory = directory
        self._make = make
        self._made: dict[frozenset[tuple[str, str]], Transcript] = {}
        self.by_stream: dict[StreamId, Transcript] = {}
        """Entries stay when a stream leaves: frames of it may still be queued."""

    async def fetch(self, stream: StreamId) -> None:
        """Make sure that a stream's tokens can be read.

        Raises:
            ConnectionError: the worker does not answer.
        """
        assets = await self._directory.tokenizer_assets(stream)
        key = frozenset(assets.files.items())
        if key not in self._made:
            self._made[key] = await asyncio.to_thread(self._make, assets)
        self.by_stream[stream] = self._made[key]


class StreamReader:
    """One stream's task."""

    def __init__(
        self,
        address: StreamAddress,
        after: Position | None,
        *,
        transcripts: Transcripts,
        applier: Applier,
        metrics: Metrics,
        connect: Connect,
        holds: HoldsOf,
        keys: TenantKeys | None,
    ) -> None:
        self.address = address
        self.after = after
        """Everything up to here has been handed to the applier."""
        self._transcripts = transcripts
        self._applier = applier
        self._metrics = metrics
        self._connect = connect
        self._holds = partial(holds, address.stream)
        self._keys = keys
        self._subscription: Subscription | None = None

    def report(self) -> StreamReport:
        """How it goes now."""
        state = self._subscription.state.value if self._subscription else "connecting"
        return StreamReport(self.address.stream, self.address.epoch, state, self.after)

    async def run(self) -> None:
        """Read until cancelled."""
        retry_s = FIRST_RETRY_S
        while True:
            before = self.after
            try:
                await self._read()
            except (ConnectionError, KvEventsError) as error:
                log.warning("stream %s cannot be read: %s", self.address.stream, error)
            except Exception:
                log.exception("reading stream %s failed", self.address.stream)
            self._metrics.stream_failures.inc()
            retry_s = FIRST_RETRY_S if self.after != before else min(2 * retry_s, LAST_RETRY_S)
            await asyncio.sleep(retry_s)

    async def _read(self) -> None:
        await self._transcripts.fetch(self.address.stream)
        try:
            async with subscribe(
                self.address,
                after=self.after,
                residents=_Indexed(self._holds, self.after),
                keys=self._keys,
                connect=self._connect,
            ) as self._subscription:
                with self._metrics.subscriptions.counting(self._subscription):
                    async for item in self._subscription:
                        await self._applier.put(self._arrival(item))
                        self.after = self._subscription.position
        finally:
            self._subscription = None

    def _arrival(self, item: Item) -> Arrival:
        if isinstance(item, Frame):
            self._tell_of_privacy(item)
            return item
        position = Position(item.epoch, item.as_of_seq)
        return StreamReplaced(self.address.stream, position, item.blocks, item.reason)

    def _tell_of_privacy(self, frame: Frame) -> None:
        """Say once an epoch what cannot be done with its stream."""
        if not isinstance(frame.body, StreamInfo):
            return
        if not frame.body.tokens_included:
            problem = "its publisher keeps the tokens to itself"
        elif frame.body.privacy == "encrypted" and self._keys is None:
            problem = "its tokens are encrypted: give --kv-events-keys-file"
        else:
            return
        log.warning(
            "stream %s is %s, no turn of it can be archived or found: %s",
            frame.stream,
            frame.body.privacy,
            problem,
        )


class _Indexed:
    """What the writer thread has indexed of a stream, once it has come as far as the reader."""

    def __init__(
        self, holds: Callable[[Position], tuple[TierState, ...] | None], at: Position | None
    ) -> None:
        self._holds = holds
        self._at = at

    def follow(self, item: Item) -> None:
        seq = item.seq if isinstance(item, Frame) else item.as_of_seq
        self._at = Position(item.epoch, seq)

    def digest(self) -> tuple[TierState, ...] | None:
        return None if self._at is None else self._holds(self._at)


class StreamReaders:
    """All streams' tasks; event loop only."""

    def __init__(
        self,
        *,
        directory: StreamDirectory,
        transcripts: Transcripts,
        applier: Applier,
        metrics: Metrics,
        stored: Mapping[StreamId, Position | None],
        settle_s: float,
        connect: Connect,
        holds: HoldsOf,
        keys: TenantKeys | None,
    ) -> None:
        """`stored` are the streams that the last run left something of, and where it stood."""
        self._directory = directory
        self._transcripts = transcripts
        self._applier = applier
        self._metrics = metrics
        self._connect = connect
        self._holds = holds
        self._keys = keys
        self._settle_s = settle_s
        self._unseen = dict(stored)
        self._readers: dict[StreamId, StreamReader] = {}
        self._tasks: dict[StreamId, asyncio.Task[None]] = {}
        self._one_change = asyncio.Lock()
        """An ended stream must not overtake its own return."""

    def reports(self) -> list[StreamReport]:
        """How each stream that is there does."""
        return [reader.report() for reader in self._readers.values()]

    async def run(self) -> None:
        """Follow the directory until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._settle())
            async for event in self._directory.watch():
                async with self._one_change:
                    if isinstance(event, StreamJoined):
                        await self._join(event.descriptor.address, tasks)
                    else:
                        await self._leave(event)

    async def _join(self, address: StreamAddress, tasks: asyncio.TaskGroup) -> None:
        stream = address.stream
        reader = self._readers.get(stream)
        if reader is not None and reader.address == address:
            return
        await self._stop(stream)
        stored = self._unseen.pop(stream, None)
        self._readers[stream] = StreamReader(
            address,
            reader.after if reader is not None else stored,
            transcripts=self._transcripts,
            applier=self._applier,
            metrics=self._metrics,
            connect=self._connect,
            holds=self._holds,
            keys=self._keys,
        )
        self._tasks[stream] = tasks.create_task(self._readers[stream].run())
        log.info("stream %s joined", stream, extra={"epoch": address.epoch})

    async def _leave(self, event: StreamLeft) -> None:
        await self._stop(event.stream)
        self._readers.pop(event.stream, None)
        self._unseen.pop(event.stream, None)
        await self._applier.put(StreamEnded(event.stream))
        log.info("stream %s left", event.stream)

    async def _stop(self, stream: StreamId) -> None:
        task = self._tasks.pop(stream, None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _settle(self) -> None:
        await asyncio.sleep(self._settle_s)
        async with self._one_change:
            for stream in self._unseen:
                log.info("stream %s of the last run did not come back", stream)
                await self._applier.put(StreamEnded(stream))
            self._unseen.clear()
