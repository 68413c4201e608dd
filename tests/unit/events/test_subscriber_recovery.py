"""What a reader does about frames that are missing, lost, or garbage."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import pytest

from shepherd_events.codec import decode_reply, encode_frame, encode_reply
from shepherd_events.codec.checksums import SIZE_BYTES, with_checksum
from shepherd_events.control import ReplayReply, SnapshotReply, Status
from shepherd_events.events import Frame, Goodbye, StreamId, TierState, Tombstone
from shepherd_events.subscriber import Position, Reset, ResetReason, StreamState
from shepherd_events.transports.memory import PerfectWire
from stream_readers import INFO, stored, turn
from stream_source import EPOCH, PATIENCE, Source, started


async def test_frames_beyond_a_gap_wait_for_the_replay() -> None:
    source = started()
    async with source.reader() as reader:
        await reader.read_up_to(3)
        source.send(turn(1), live=False)
        source.send(turn(2), live=False)
        source.send(turn(3))
        await reader.read_up_to(6)

        assert reader.numbers == [1, 2, 3, 4, 5, 6]
        assert reader.subscription.counters.gaps == 1
        assert reader.subscription.counters.snapshots == 0


async def test_the_last_frame_when_lost_is_found_missing_by_the_heartbeat() -> None:
    source = started()
    async with source.reader() as reader:
        await reader.read_up_to(3)
        source.send(turn(1), live=False)
        source.heartbeat()
        await reader.read_up_to(4)

        assert reader.numbers == [1, 2, 3, 4]
        assert reader.subscription.counters.gaps == 1


async def test_a_tombstone_is_answered_by_a_snapshot() -> None:
    source = started()
    async with source.reader() as reader:
        await reader.read_up_to(3)
        source.residents.apply(stored(4, parent=3))
        source.send(Tombstone(4, 6, "queue full"))
        source.send(turn(1))
        await reader.read_up_to(7)

        assert reader.resets == [Reset(EPOCH, 7, (stored(1, 2, 3, 4),), ResetReason.LOST)]
        assert reader.numbers == [1, 2, 3]


async def test_a_tombstone_that_a_replay_brings_is_answered_by_a_snapshot() -> None:
    source = started()
    source.send(Tombstone(4, 6, "queue full"))
    async with source.reader(after=Position(EPOCH, 4)) as reader:
        await reader.read_up_to(6)

        assert reader.resets == [Reset(EPOCH, 6, (stored(1, 2, 3),), ResetReason.LOST)]


async def test_a_stream_with_a_loss_is_stale_until_the_snapshot_comes() -> None:
    source = started()
    async with source.reader() as reader:
        await reader.read_up_to(3)
        source.alter = lambda reply: encode_reply(SnapshotReply(Status.BUSY, EPOCH))
        source.send(Tombstone(4, 4, "queue full"))
        await reader.read_until(lambda: reader.subscription.counters.failed_requests >= 3)
        assert reader.subscription.state is StreamState.STALE
        assert reader.subscription.position == Position(EPOCH, 3)

        source.alter = lambda reply: reply
        await reader.read_up_to(4)


async def test_a_live_frame_that_is_garbage_is_asked_for_again() -> None:
    source = started()
    async with source.reader() as reader:
        await reader.read_up_to(3)
        source.send(turn(1), live=False)
        source.send_live(b"\xff garbage")
        await reader.read_up_to(4)

        assert reader.numbers == [1, 2, 3, 4]
        assert reader.subscription.counters.decode_errors == 1


@pytest.mark.parametrize(
    "payload_of",
    [lambda good: b"\xff", lambda good: with_checksum(good[:-SIZE_BYTES], b"\x30\x01")],
)
async def test_a_frame_that_cannot_be_read_even_when_replayed_is_replaced_by_a_snapshot(
    payload_of: Callable[[bytes], bytes],
) -> None:
    source = started()
    async with source.reader() as reader:
        await reader.read_up_to(3)
        source.residents.apply(stored(4, parent=3))
        source.head_seq = 4
        payload = payload_of(source.payload(turn(1), 4))
        source.ring.append(4, 4, payload)
        source.send_live(payload)
        await reader.read_up_to(4)

        assert reader.resets == [Reset(EPOCH, 4, (stored(1, 2, 3, 4),), ResetReason.UNDECODABLE)]
        assert reader.subscription.counters.decode_errors == 2


async def test_frames_of_another_stream_are_refused() -> None:
    source = started()
    async with source.reader() as reader:
        await reader.read_up_to(3)
        source.send_live(encode_frame(Frame(StreamId("worker-2"), EPOCH, 4, 1, Goodbye(""))))
        source.send(turn(1))
        await reader.read_up_to(4)

        assert reader.frames[-1].body == turn(1)
        assert reader.subscription.counters.decode_errors == 1


async def test_duplicates_are_dropped_and_counted() -> None:
    source = started()
    async with source.reader() as reader:
        await reader.read_up_to(3)
        for seq in (1, 3, 2):
            source.send_live(source.payload(turn(0), seq))
        source.send(turn(1))
        await reader.read_up_to(4)

        assert reader.numbers == [1, 2, 3, 4]
        assert reader.subscription.counters.duplicates == 3


async def test_a_reader_that_is_not_read_recovers_by_replay() -> None:
    source = started(queue_frames=2)
    async with source.reader() as reader:
        await reader.read_up_to(3)
        for number in range(100):
            source.send(turn(number))
        source.heartbeat()
        await reader.read_up_to(5)
        source.heartbeat()
        await reader.read_up_to(103)

        assert reader.numbers == list(range(1, 104))
        assert reader.subscription.counters.snapshots == 0
        assert reader.subscription.counters.replays > 5


async def test_a_publisher_that_is_not_there_yet_is_waited_for() -> None:
    source = Source()
    source.disconnect_control()
    async with source.reader() as reader:
        await reader.read_until(lambda: reader.subscription.counters.failed_requests >= 3)
        assert reader.subscription.state is StreamState.STALE

        source.connect_control()
        source.send(INFO)
        await reader.read_up_to(1)
        assert reader.numbers == [1]


async def test_without_control_frames_in_order_still_arrive_and_a_gap_makes_stale() -> None:
    source = started()
    async with source.reader() as reader:
        await reader.read_up_to(3)
        source.disconnect_control()
        source.send(turn(1))
        await reader.read_up_to(4)
        source.send(turn(2), live=False)
        source.send(turn(3))
        await reader.read_until(lambda: reader.subscription.counters.failed_requests >= 2)
        assert reader.subscription.state is StreamState.STALE
        assert reader.numbers == [1, 2, 3, 4]

        source.connect_control()
        await reader.read_up_to(6)
        assert reader.numbers == [1, 2, 3, 4, 5, 6]


async def test_without_the_live_wire_silence_is_answered_by_replays() -> None:
    source = started(LiveLost)
    async with source.reader() as reader:
        await reader.read_up_to(3)
        source.send(turn(1))
        await reader.read_up_to(4)

        assert reader.numbers == [1, 2, 3, 4]


@dataclass
class LiveLost:
    """Nothing arrives but replies."""

    def carry(self, payload: bytes) -> Iterable[bytes]:
        return ()

    def answers(self) -> bool:
        return True


@pytest.mark.parametrize(
    "spoil",
    [
        lambda reply: replace(reply, tiers=(TierState(reply.tiers[0].tier, 9, 9),)),
        lambda reply: replace(reply, blocks=()),
        lambda reply: replace(reply, status=Status.DENIED),
        lambda reply: replace(reply, epoch=EPOCH - 1),
        lambda reply: ReplayReply(Status.OK, EPOCH),
    ],
)
async def test_a_snapshot_that_is_not_whole_is_not_believed(
    spoil: Callable[[SnapshotReply], SnapshotReply],
) -> None:
    source = started(ring_bytes=1)

    def alter(payload: bytes) -> bytes:
        reply = decode_reply(payload)
        return encode_reply(spoil(reply)) if isinstance(reply, SnapshotReply) else payload

    source.alter = alter
    async with source.reader() as reader:
        await reader.read_until(lambda: reader.subscription.counters.failed_requests >= 2)
        assert reader.resets == []

        source.alter = lambda reply: reply
        await reader.read_up_to(3)
        assert len(reader.resets) == 1


async def test_a_snapshot_of_many_chunks_survives_lost_replies() -> None:
    class Lossy(PerfectWire):
        asked = 0

        def answers(self) -> bool:
            self.asked += 1
            return self.asked % 3 > 0

    source = Source(Lossy, ring_bytes=1)
    source.send(INFO)
    source.tell(*(stored(number * 10) for number in range(1, 101)))
    async with source.reader(patience=replace(PATIENCE, request_s=0.01)) as reader:
        await reader.read_up_to(2)

        assert len(reader.resets[0].blocks) == 100
        assert reader.subscription.counters.snapshots == 1


async def test_a_busy_publisher_is_left_alone_for_as_long_as_it_asks() -> None:
    asked: list[float] = []

    def busy(_: bytes) -> bytes:
        asked.append(time.monotonic())
        return encode_reply(ReplayReply(Status.BUSY, EPOCH, retry_after_ms=50))

    source = started()
    source.alter = busy
    async with source.reader() as reader:
        await reader.read_until(lambda: len(asked) >= 3)

    assert asked[1] - asked[0] >= 0.05
    assert asked[2] - asked[1] >= 0.05


async def test_snapshots_are_not_asked_for_more_often_than_patience_allows() -> None:
    source = started()
    patience = replace(PATIENCE, between_snapshots_s=0.1)
    async with source.reader(patience=patience) as reader:
        await reader.read_up_to(3)
        begin = asyncio.get_running_loop().time()
        for seq in (4, 5, 6):
            source.send(Tombstone(seq, seq, "queue full"))
            await reader.read_up_to(seq)

        assert len(reader.resets) == 3
        assert asyncio.get_running_loop().time() - begin >= 0.2
