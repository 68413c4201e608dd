from __future__ import annotations

import asyncio
import threading
import time
from array import array
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from shepherd_events.codec import decode_frame, decode_reply, encode_request
from shepherd_events.control import SnapshotReply, SnapshotRequest, Status
from shepherd_events.errors import TransportError
from shepherd_events.events import (
    BlockBatch,
    BlocksStored,
    Frame,
    Goodbye,
    Heartbeat,
    Notice,
    StreamAddress,
    StreamInfo,
    Tier,
    TierState,
    Tombstone,
)
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.resident_set import ResidentSet
from shepherd_events.transports.memory import (
    MemoryBroker,
    MemoryPublisherTransport,
    StalledWire,
)
from shepherd_events.transports.protocol import Backlog
from stream_readers import DEADLINE_S, INFO, STREAM, removed, replay, stored, turn, wait_until

EPOCH = 1_790_000_000_000_000_000
ADDRESS = StreamAddress(STREAM, EPOCH, "memory", "memory://here", "memory://here")


class Place:
    """A broker, and a publisher at it whose clock stands still."""

    def __init__(self, broker: MemoryBroker | None = None) -> None:
        self.broker = broker or MemoryBroker()

    def publisher(
        self,
        *,
        max_queued_events: int = 1000,
        heartbeat_s: float = 60.0,
        clock: Callable[[], int] = lambda: EPOCH,
        previous_epoch: int = 0,
    ) -> KvEventPublisher:
        return KvEventPublisher(
            STREAM,
            INFO,
            self.broker.publisher("here"),
            clock=clock,
            previous_epoch=previous_epoch,
            max_queued_events=max_queued_events,
            heartbeat_s=heartbeat_s,
        )

    def answer(self, payload: bytes) -> bytes:
        reply = self.broker.answer("memory://here", payload)
        assert reply is not None
        return reply

    def sent_by(self, publisher: KvEventPublisher, *, num_frames: int) -> list[Frame]:
        """All numbered frames, once there are so many."""
        wait_until(lambda: publisher.counters.frames >= num_frames)
        frames = replay(self.answer, publisher.epoch)
        assert len(frames) == num_frames
        return frames

    def snapshot(self) -> SnapshotReply:
        request = SnapshotRequest(STREAM, b"", 0, 1 << 20)
        reply = decode_reply(self.answer(encode_request(request)))
        assert isinstance(reply, SnapshotReply)
        return reply


def test_the_first_frame_says_what_the_stream_is() -> None:
    place = Place()
    publisher = place.publisher(previous_epoch=5, heartbeat_s=0.5)
    publisher.start()

    assert publisher.address == ADDRESS
    assert place.sent_by(publisher, num_frames=1) == [
        Frame(
            STREAM,
            EPOCH,
            1,
            EPOCH,
            replace(
                INFO,
                replay_capacity=64 << 20,
                replay_endpoint="memory://here",
                previous_epoch=5,
                heartbeat_ms=500,
            ),
        )
    ]
    publisher.close("done")


def test_epochs_grow_even_if_the_clock_goes_back() -> None:
    publisher = Place().publisher(previous_epoch=EPOCH + 10)

    assert publisher.epoch == EPOCH + 11


def test_what_is_told_before_the_start_leaves_together_and_in_order() -> None:
    place = Place()
    publisher = place.publisher()
    notice = Notice("n", "t", "s", (1,), ("a",), "topic", "text", 1)
    publisher.publish([stored(1), stored(2, parent=1)])
    publisher.publish([removed(2)])
    publisher.publish([])
    publisher.publish_turn(turn(1))
    publisher.publish_notice(notice)
    assert publisher.head_seq == 4
    publisher.start()

    frames = place.sent_by(publisher, num_frames=4)

    assert [frame.seq for frame in frames] == [1, 2, 3, 4]
    assert [frame.body for frame in frames[1:]] == [
        BlockBatch((stored(1), stored(2, parent=1), removed(2))),
        turn(1),
        notice,
    ]
    assert publisher.counters.events == 6
    publisher.close("done")


def test_an_overflow_leaves_a_tombstone_for_exactly_what_was_dropped() -> None:
    place = Place()
    publisher = place.publisher(max_queued_events=2)
    publisher.publish([stored(1)])
    publisher.publish([stored(2), stored(3)])
    publisher.publish([stored(4), stored(5)])
    publisher.publish([stored(6)])
    publisher.start()

    frames = place.sent_by(publisher, num_frames=4)

    assert [(frame.seq, frame.body) for frame in frames[1:]] == [
        (2, BlockBatch((stored(1),))),
        (4, Tombstone(3, 4, "queue full")),
        (5, BlockBatch((stored(6),))),
    ]
    assert publisher.counters.dropped_events == 4
    assert publisher.counters.tombstones == 1
    assert place.snapshot().as_of_seq == 5
    assert ResidentSet(place.snapshot().blocks).hashes() == {1, 2, 3, 4, 5, 6}
    publisher.close("done")


def bad_run(*hashes: int) -> BlocksStored:
    return replace(stored(*hashes), token_ids=array("I", [1]))


def test_a_frame_that_has_no_bytes_becomes_a_tombstone_and_the_stream_goes_on() -> None:
    place = Place()
    publisher = place.publisher()
    publisher.publish([stored(1), bad_run(2, 3), stored(0)])
    publisher.publish_turn(turn(-1))
    publisher.publish([stored(4)])
    publisher.start()

    frames = place.sent_by(publisher, num_frames=4)

    assert [(frame.seq, frame.body) for frame in frames[1:]] == [
        (2, Tombstone(2, 2, "not encodable")),
        (3, Tombstone(3, 3, "not encodable")),
        (4, BlockBatch((stored(4),))),
    ]
    assert publisher.counters.unencodable_frames == 2
    assert publisher.counters.events == 2
    snapshot = place.snapshot()
    assert snapshot.status is Status.OK
    assert ResidentSet(snapshot.blocks).hashes() == {1, 4}
    publisher.close("done")


def test_events_after_a_snapshot_never_join_a_frame_that_it_covers() -> None:
    place = Place()
    gate = threading.Event()
    publisher = KvEventPublisher(
        STREAM, INFO, place.broker.publisher("here"), clock=_Gate(gate), heartbeat_s=60
    )
    publisher.start()
    publisher.publish([stored(1)])
    snapshot = place.snapshot()
    publisher.publish([stored(2)])
    gate.set()

    frames = place.sent_by(publisher, num_frames=3)

    assert snapshot.as_of_seq == 2
    assert [frame.body for frame in frames[1:]] == [
        BlockBatch((stored(1),)),
        BlockBatch((stored(2),)),
    ]
    publisher.close("done")


class _Gate:
    """A clock that holds up the sender's thread, and no other, until the gate is open."""

    def __init__(self, gate: threading.Event) -> None:
        self._gate = gate

    def __call__(self) -> int:
        if threading.current_thread().name == "kv-events-sender":
            self._gate.wait()
        return EPOCH


async def test_heartbeats_tell_the_head_the_oldest_frame_and_the_digest() -> None:
    place = Place()
    publisher = place.publisher(heartbeat_s=0.01)
    publisher.start()
    publisher.publish([stored(5, 6), stored(7, tier=Tier.HOST)])
    reader = place.broker.connect(publisher.address)

    frame = decode_frame(await reader.receive())
    while not isinstance(frame.body, Heartbeat):
        frame = decode_frame(await reader.receive())

    assert frame.seq == 2
    assert frame.body == Heartbeat(
        head_seq=2,
        first_available=1,
        tiers=(TierState(Tier.DEVICE, 2, 5 ^ 6), TierState(Tier.HOST, 1, 7)),
        dropped_total=0,
        control=publisher.address.control,
    )
    assert publisher.counters.heartbeats >= 1
    assert publisher.head_seq == 2
    await reader.close()
    publisher.close("done")


async def test_closing_sends_what_waits_and_a_goodbye_and_frees_the_place() -> None:
    place = Place()
    publisher = place.publisher(max_queued_events=1)
    reader = place.broker.connect(ADDRESS)
    publisher.publish([stored(1)])
    publisher.start()
    publisher.close("drained")
    publisher.close("again")

    async with asyncio.timeout(DEADLINE_S):
        bodies = [decode_frame(await reader.receive()).body for _ in range(3)]

    assert isinstance(bodies[0], StreamInfo)
    assert bodies[1:] == [BlockBatch((stored(1),)), Goodbye("drained")]
    assert place.broker.answer("memory://here", b"") is None
    await reader.close()


def test_what_is_told_after_closing_is_counted_and_nothing_else() -> None:
    publisher = Place().publisher()
    publisher.start()
    publisher.close("done")

    publisher.publish([stored(1), stored(2)])
    publisher.publish_turn(turn(1))

    assert publisher.counters.dropped_events == 3
    assert publisher.head_seq == 2


def test_a_publisher_that_never_started_can_be_closed() -> None:
    Place().publisher().close("changed my mind")


def test_a_place_that_is_taken_is_told_at_the_start() -> None:
    place = Place()
    first = place.publisher()
    first.start()

    with pytest.raises(TransportError, match="taken by another publisher"):
        place.publisher().start()
    first.close("done")


def test_the_backlog_is_what_waits_here_and_on_the_wire() -> None:
    now_ns = [EPOCH]
    transport = WaitingWire()
    publisher = KvEventPublisher(STREAM, INFO, transport, clock=lambda: now_ns[0])
    assert publisher.backlog == Backlog()

    publisher.publish([removed(1)])
    now_ns[0] += 1_500_000_000
    publisher.publish([removed(2)])
    assert publisher.backlog == Backlog(1, 2 * 40, 1.5)

    transport.backlog = Backlog(3, 1000, 9.25)
    assert publisher.backlog == Backlog(4, 1080, 9.25)


async def test_a_stalled_transport_holds_up_neither_publish_nor_close() -> None:
    gate = threading.Event()
    place = Place(MemoryBroker(lambda: StalledWire(gate)))
    publisher = place.publisher(max_queued_events=50)
    reader = place.broker.connect(ADDRESS)
    publisher.start()

    begin = time.monotonic()
    for number in range(1, 1001):
        publisher.publish([stored(number)])
    publisher.close("in time", timeout_s=0.05)
    assert time.monotonic() - begin < 2.0
    assert publisher.counters.dropped_events >= 900

    gate.set()
    frame = decode_frame(await reader.receive())
    while not isinstance(frame.body, Goodbye):
        frame = decode_frame(await reader.receive())
    assert frame.seq == publisher.head_seq
    await reader.close()


class WaitingWire(MemoryPublisherTransport):
    """A transport whose backlog the test chooses."""

    backlog = Backlog()

    def __init__(self) -> None:
        super().__init__(MemoryBroker(), "waiting")


class BrokenWire:
    """Fails for the sender, as a socket may."""

    def carry(self, payload: bytes) -> Iterable[bytes]:
        raise TransportError("broken")

    def answers(self) -> bool:
        return True


async def test_frames_that_the_transport_refuses_can_still_be_replayed() -> None:
    place = Place(MemoryBroker(BrokenWire))
    publisher = place.publisher()
    reader = place.broker.connect(ADDRESS)
    publisher.publish([stored(1)])
    publisher.start()

    assert place.sent_by(publisher, num_frames=2)[1].body == BlockBatch((stored(1),))
    wait_until(lambda: publisher.counters.send_failures == 2)
    await reader.close()
    publisher.close("done")


def test_threads_that_publish_together_lose_and_repeat_nothing() -> None:
    place = Place()
    publisher = place.publisher(max_queued_events=100_000)
    publisher.start()

    def tell(base: int) -> None:
        for number in range(500):
            publisher.publish([stored(base + number)])

    threads = [threading.Thread(target=tell, args=(1 + base * 1000,)) for base in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: publisher.counters.events == 2001)

    told = [
        event.block_hashes[0]
        for frame in replay(place.answer, EPOCH)
        if isinstance(frame.body, BlockBatch)
        for event in frame.body.events
        if isinstance(event, BlocksStored)
    ]
    for base in range(4):
        mine = [block_hash for block_hash in told if block_hash // 1000 == base]
        assert mine == list(range(1 + base * 1000, 501 + base * 1000))
    assert len(told) == 2000
    publisher.close("done")
