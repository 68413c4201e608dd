"""A recording told anew: the same story, at the speed that is asked for."""

from __future__ import annotations

import asyncio
import math

from shepherd_events.events import Frame, StreamId, StreamInfo, Tier
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.recording import RecordedItem
from shepherd_events.replayer import Replayer
from shepherd_events.resident_set import ResidentSet
from shepherd_events.subscriber import subscribe
from shepherd_events.subscription_types import Item, Reset, ResetReason
from shepherd_events.transports.memory import MemoryBroker
from stream_readers import INFO, STREAM, Reader, removed, stored, turn
from stream_source import PATIENCE, Source

SECOND = 1_000_000_000


class Stage:
    """Where recordings are played: publishers in memory, a clock that sleeping moves on."""

    def __init__(self, speed: float) -> None:
        self.broker = MemoryBroker()
        self.infos: dict[StreamId, StreamInfo] = {}
        self.now = 50.0
        self.slept: list[float] = []
        self.replayer = Replayer(self.open, speed, clock=lambda: self.now, sleep=self.sleep)

    def open(self, stream: StreamId, info: StreamInfo) -> KvEventPublisher:
        self.infos[stream] = info
        publisher = KvEventPublisher(stream, info, self.broker.publisher(str(stream)))
        publisher.start()
        return publisher

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    async def read(self, stream: StreamId = STREAM) -> Reader:
        """Everything that was told on one stream."""
        publisher = self.replayer.publishers[stream]
        async with subscribe(
            publisher.address, patience=PATIENCE, connect=self.broker.connect
        ) as subscription:
            reader = Reader(subscription)
            await reader.read_up_to(publisher.head_seq)
            return reader


def frame(seq: int, body: object, stream: StreamId = STREAM) -> Frame:
    return Frame(stream, 7, seq, 1, body)  # type: ignore[arg-type] # any body


def at(second: float, item: Item) -> RecordedItem:
    stream = item.stream if isinstance(item, Frame) else STREAM
    return RecordedItem(round(second * SECOND), stream, item)


async def test_items_come_when_their_time_has_come_at_any_speed() -> None:
    items = [at(100, frame(1, INFO)), at(101, frame(2, turn(1))), at(105, frame(3, turn(2)))]
    for speed, waits in ((1.0, [1.0, 4.0]), (4.0, [0.25, 1.0]), (math.inf, [])):
        stage = Stage(speed)
        await stage.replayer.play(items)

        assert [wait for wait in stage.slept if wait != 0.002] == waits
        await stage.replayer.close("over")


async def test_what_a_reader_ends_up_with_is_what_the_recorded_one_had() -> None:
    source, items = Source(), []
    async with source.reader() as reader:
        source.send(INFO)
        for number in range(1, 40):
            source.tell(stored(number, 100 + number), stored(number, tier=Tier.HOST))
            source.send(turn(number))
        source.tell(removed(3, 105), removed(8, tier=Tier.HOST))
        await reader.read_up_to(source.head_seq)
        items = [at(0, item) for item in reader.frames]
    stage = Stage(math.inf)
    await stage.replayer.play(items)
    copy = await stage.read()

    assert copy.residents.digest() == source.residents.digest()
    assert [f.body for f in copy.frames if f.body == turn(7)] == [turn(7)]
    assert (stage.infos[STREAM].model, stage.infos[STREAM].block_size) == ("model-1", 2)
    await stage.replayer.close("over")


async def test_a_reset_forgets_what_was_there_before() -> None:
    reset = Reset(9, 12, (stored(5, 6), stored(7, parent=6)), ResetReason.COMPACTED)
    stage = Stage(math.inf)
    await stage.replayer.play([at(1, frame(1, INFO)), at(1, frame(2, _batch(1))), at(2, reset)])
    reader = await stage.read()

    assert reader.residents.digest() == ResidentSet(reset.blocks).digest()
    await stage.replayer.close("over")


async def test_a_recording_that_begins_in_the_middle_tells_its_block_size() -> None:
    stage = Stage(math.inf)
    await stage.replayer.play([at(1, frame(80, _batch(4)))])

    assert stage.infos[STREAM].block_size == 2
    await stage.replayer.close("over")


async def test_nothing_is_dropped_at_full_speed_and_streams_stay_apart() -> None:
    other = StreamId("worker-2", 1)
    items = [
        at(0, frame(seq, turn(seq), stream)) for seq in range(1, 1500) for stream in (STREAM, other)
    ]
    stage = Stage(math.inf)
    await stage.replayer.play(items)
    readers = [await stage.read(stream) for stream in (STREAM, other)]

    for reader in readers:
        assert [f.body.origin.turn for f in reader.frames[1:]] == list(range(1, 1500))  # type: ignore[union-attr] # turns
    assert all(not p.counters.tombstones for p in stage.replayer.publishers.values())
    await stage.replayer.close("over")


def _batch(*hashes: int) -> object:
    from shepherd_events.events import BlockBatch

    return BlockBatch((stored(*hashes),))
