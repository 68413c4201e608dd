"""A real publisher over a faulty wire in memory, and the truth to hold its readers to."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from random import Random

from hypothesis import strategies as st

from shepherd_events.events import BlockEvent, BlocksCleared, Tier
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.resident_set import ResidentSet
from shepherd_events.subscriber import Position, subscribe
from shepherd_events.transports.memory import FaultyWire, MemoryBroker
from stream_readers import INFO, STREAM, Reader, removed, stored
from stream_source import PATIENCE

HEARTBEAT_S = 0.005
FAST = replace(PATIENCE, silence_s=0.1, request_s=0.05, first_retry_s=0.002, last_retry_s=0.01)


class FaultyStream:
    """A publisher that restarts, and a reader that comes and goes, over a faulty wire."""

    def __init__(self, wire: FaultyWire, *, ring_bytes: int, queued: int, buffered: int) -> None:
        self.broker = MemoryBroker(lambda: wire, queue_frames=buffered)
        self.wire = wire
        self.ring_bytes = ring_bytes
        self.queued = queued
        self.truth = ResidentSet()
        self.clock = 1000
        self.publisher = self._publisher(0)
        self.publisher.start()

    def _publisher(self, previous_epoch: int) -> KvEventPublisher:
        return KvEventPublisher(
            STREAM,
            INFO,
            self.broker.publisher("here"),
            clock=lambda: self.clock,
            previous_epoch=previous_epoch,
            max_queued_events=self.queued,
            ring_bytes=self.ring_bytes,
            heartbeat_s=HEARTBEAT_S,
        )

    def publish(self, events: list[BlockEvent]) -> None:
        self.publisher.publish(events)
        for event in events:
            self.truth.apply(event)

    def restart(self, *, clock_step: int = 1, goodbye: bool = True) -> None:
        """Begin a new epoch; without a goodbye, as after `kill -9`."""
        loss = self.wire.loss
        self.wire.loss = loss if goodbye else 1.0
        self.publisher.close("restart")
        self.wire.loss = loss
        self.truth = ResidentSet()
        self.clock = max(1, self.clock + clock_step)
        self.publisher = self._publisher(self.publisher.epoch)
        self.publisher.start()

    async def reader(
        self,
        stack: AsyncExitStack,
        after: Position | None,
        residents: ResidentSet,
        held: ResidentSet | None = None,
    ) -> Reader:
        """`held` is what the subscription itself compares with the publisher's digests."""
        subscription = await stack.enter_async_context(
            subscribe(
                self.publisher.address,
                after=after,
                residents=held,
                patience=FAST,
                connect=self.broker.connect,
                random=Random(1),
            )
        )
        return Reader(subscription, residents)


def block_events() -> st.SearchStrategy[BlockEvent]:
    hashes = st.integers(1, 40)
    return st.one_of(
        st.builds(
            lambda first, count, tier: stored(
                *range(first, first + count), parent=first - 1 or None, tier=tier
            ),
            hashes,
            st.integers(1, 6),
            st.sampled_from([Tier.DEVICE, Tier.HOST]),
        ),
        st.builds(removed, hashes, hashes),
        st.sampled_from([stored(2**64 - 1), removed(2**64 - 1)]),
        st.builds(BlocksCleared, st.sampled_from([None, Tier.DEVICE, Tier.HOST])),
    )
