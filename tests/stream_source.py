"""A publisher without threads, whose every step is the test's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random

from shepherd_events.codec import encode_frame
from shepherd_events.control_server import ControlServer
from shepherd_events.events import (
    BlockBatch,
    BlockEvent,
    Body,
    Frame,
    Heartbeat,
    StreamAddress,
    Tombstone,
)
from shepherd_events.replay_ring import ReplayRing
from shepherd_events.resident_set import ResidentSet
from shepherd_events.subscriber import Patience, Position, subscribe
from shepherd_events.transports.memory import MemoryBroker, PerfectWire, Wire
from shepherd_events.transports.protocol import topic_of
from stream_readers import INFO, STREAM, Reader, stored

EPOCH = 100
PATIENCE = Patience(
    silence_s=0.2,
    request_s=0.2,
    first_retry_s=0.005,
    last_retry_s=0.02,
    between_snapshots_s=0.0,
    page_bytes=400,
)
PLACE = "memory://here"


class Source:
    """A publisher without threads: what it sends, keeps and answers is told by the test."""

    def __init__(
        self,
        wire: Callable[[], Wire] = PerfectWire,
        *,
        ring_bytes: int = 100_000,
        epoch: int = EPOCH,
        queue_frames: int = 1000,
    ) -> None:
        self.broker = MemoryBroker(wire, queue_frames=queue_frames)
        self.ring_bytes = ring_bytes
        self.alter: Callable[[bytes], bytes] = lambda reply: reply
        """What becomes of the replies on their way."""
        self.begin(epoch)

    def begin(self, epoch: int) -> None:
        """Start anew, with nothing sent and nothing resident."""
        self.epoch = epoch
        self.head_seq = 0
        self.residents = ResidentSet()
        self.ring = ReplayRing(self.ring_bytes)
        self.server = ControlServer(
            STREAM,
            epoch,
            self.ring,
            head_seq=lambda: self.head_seq,
            snapshot=lambda: (self.head_seq, self.residents.view()),
        )
        self.disconnect_control()
        self.connect_control()

    def connect_control(self) -> None:
        self.broker.occupy(PLACE, lambda request: self.alter(self.server.answer(request)))

    def disconnect_control(self) -> None:
        self.broker.vacate(PLACE)

    @property
    def address(self) -> StreamAddress:
        return StreamAddress(STREAM, self.epoch, "memory", PLACE, PLACE)

    def payload(self, body: Body, seq: int) -> bytes:
        return encode_frame(Frame(STREAM, self.epoch, seq, 1, body))

    def send(self, body: Body, *, live: bool = True) -> None:
        """Number a body, keep it, and send it or let the wire lose it."""
        first_seq = self.head_seq + 1
        self.head_seq = body.to_seq if isinstance(body, Tombstone) else first_seq
        for event in getattr(body, "events", ()):
            self.residents.apply(event)
        payload = self.payload(body, self.head_seq)
        self.ring.append(first_seq, self.head_seq, payload)
        if live:
            self.send_live(payload)

    def tell(self, *events: BlockEvent, live: bool = True) -> None:
        """Send a batch."""
        self.send(BlockBatch(events), live=live)

    def send_live(self, payload: bytes) -> None:
        self.broker.send(PLACE, topic_of(STREAM), payload)

    def heartbeat(self) -> None:
        body = Heartbeat(self.head_seq, self.ring.first_available, self.residents.digest())
        self.send_live(self.payload(body, self.head_seq))

    @asynccontextmanager
    async def reader(
        self,
        after: Position | None = None,
        patience: Patience = PATIENCE,
        *,
        from_head: bool = False,
        residents: ResidentSet | None = None,
    ) -> AsyncIterator[Reader]:
        async with subscribe(
            self.address,
            after=after,
            from_head=from_head,
            residents=residents,
            patience=patience,
            connect=self.broker.connect,
            random=Random(1),
        ) as subscription:
            yield Reader(subscription)


def started(wire: Callable[[], Wire] = PerfectWire, **options: int) -> Source:
    """A source that has sent frames 1, 2 and 3."""
    source = Source(wire, **options)
    source.send(INFO)
    source.tell(stored(1, 2))
    source.tell(stored(3, parent=2))
    return source
