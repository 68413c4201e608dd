"""Many streams at once: joins, leaves, moves, freezes; one bounded queue; positions kept."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from shepherd_events.cursor_store import FileCursorStore
from shepherd_events.discovery import StreamDescriptor, StreamJoined, StreamLeft
from shepherd_events.events import StreamAddress, StreamId
from shepherd_events.follow import Change, FixedDirectory, StreamFollower, StreamItem, follow
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.stream_cursor import Position
from shepherd_events.subscriber import StreamState
from shepherd_events.transports.memory import MemoryBroker
from shepherd_memory.fake import FakeDirectory
from stream_readers import DEADLINE_S, INFO, stored, turn, until
from stream_source import PATIENCE


class Cluster:
    """Workers of one process, each with a real publisher."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.directory = FakeDirectory()
        self.publishers: dict[str, KvEventPublisher] = {}

    def join(self, worker: str, *, place: str = "", epoch: int = 1000) -> KvEventPublisher:
        publisher = KvEventPublisher(
            StreamId(worker),
            INFO,
            self.broker.publisher(place or worker),
            clock=lambda: epoch,
            heartbeat_s=0.02,
        )
        publisher.start()
        self.publishers[worker] = publisher
        self.directory.say(StreamJoined(descriptor(publisher.address)))
        return publisher

    def close(self) -> None:
        for publisher in self.publishers.values():
            publisher.close("done")


def descriptor(address: StreamAddress) -> StreamDescriptor:
    return StreamDescriptor(address, role="aggregated", model="model-1", block_size=2)


async def take(follower: StreamFollower, count: int) -> list[Change]:
    async with asyncio.timeout(DEADLINE_S):
        return [await anext(follower) for _ in range(count)]


def told(changes: list[Change]) -> dict[str, list[int]]:
    """Sequence numbers by worker, in the order of their coming."""
    numbers: dict[str, list[int]] = {}
    for change in changes:
        if isinstance(change, StreamItem):
            numbers.setdefault(change.stream.worker_id, []).append(change.position.seq)
    return numbers


async def test_the_streams_of_all_workers_come_merged_each_in_its_order() -> None:
    cluster = Cluster()
    for worker in ("a", "b"):
        publisher = cluster.join(worker)
        for number in range(1, 20):
            publisher.publish_turn(turn(number))
    async with follow(
        cluster.directory, patience=PATIENCE, connect=cluster.broker.connect
    ) as follower:
        changes = await take(follower, 42)

        assert told(changes) == {"a": list(range(1, 21)), "b": list(range(1, 21))}
        joined = [c.descriptor.address.stream for c in changes if isinstance(c, StreamJoined)]
        assert joined == [StreamId("a"), StreamId("b")]
        await until(lambda: all(s.state is StreamState.LIVE for s in follower.streams.values()))
    cluster.close()


async def test_nothing_of_a_stream_comes_after_it_left() -> None:
    cluster = Cluster()
    cluster.join("a")
    async with follow(
        cluster.directory, patience=PATIENCE, connect=cluster.broker.connect
    ) as follower:
        await take(follower, 2)
        cluster.directory.say(StreamLeft(StreamId("a")))
        assert await take(follower, 1) == [StreamLeft(StreamId("a"))]
        assert follower.streams == {}
        cluster.publishers["a"].publish_turn(turn(1))
        cluster.join("b")

        assert told(await take(follower, 2)) == {"b": [1]}
    cluster.close()


async def test_a_worker_that_comes_back_elsewhere_is_read_on_from_a_reset() -> None:
    cluster = Cluster()
    cluster.join("a").publish([stored(1, 2)])
    async with follow(
        cluster.directory, keep_residents=True, patience=PATIENCE, connect=cluster.broker.connect
    ) as follower:
        await take(follower, 3)
        cluster.join("a", place="elsewhere", epoch=2000).publish([stored(7)])
        changes = await take(follower, 4)

        assert isinstance(changes[0], StreamJoined)
        items = [change for change in changes if isinstance(change, StreamItem)]
        assert [item.position for item in items] == [
            Position(2000, 0),
            Position(2000, 1),
            Position(2000, 2),
        ]
        residents = follower.streams[StreamId("a")].residents
        assert residents is not None
        assert residents.hashes() == {7}
    cluster.close()


async def test_who_does_not_read_holds_only_so_many_changes() -> None:
    cluster = Cluster()
    publisher = cluster.join("a")
    for number in range(1, 500):
        publisher.publish_turn(turn(number))
    async with follow(
        cluster.directory, max_waiting=8, patience=PATIENCE, connect=cluster.broker.connect
    ) as follower:
        await until(follower._queue.full)
        await asyncio.sleep(0.02)
        assert follower._queue.qsize() == 8
        position = follower.streams[StreamId("a")].position
        assert position is not None
        assert position.seq <= 8

        assert told(await take(follower, 501))["a"] == list(range(1, 501))
    cluster.close()


async def test_a_frozen_worker_is_stale_and_comes_back_by_itself() -> None:
    cluster = Cluster()
    publisher = cluster.join("a")
    async with follow(
        cluster.directory, patience=PATIENCE, connect=cluster.broker.connect
    ) as follower:
        await take(follower, 2)
        followed = follower.streams[StreamId("a")]
        await until(lambda: followed.state is StreamState.LIVE)
        answer = cluster.broker._answers["memory://a"]
        cluster.broker.vacate("memory://a")
        with publisher._told:  # no thread of the publisher gets any further
            await until(lambda: followed.state is StreamState.STALE)
        cluster.broker.occupy("memory://a", answer)

        await until(lambda: followed.state is StreamState.LIVE)
        assert follower.streams == {StreamId("a"): followed}
    cluster.close()


async def test_a_reader_goes_on_where_it_was_left_and_sees_again_what_it_did_not_finish(
    tmp_path: Path,
) -> None:
    cluster = Cluster()
    publisher = cluster.join("a")
    for number in range(1, 10):
        publisher.publish_turn(turn(number))
    store = FileCursorStore(tmp_path / "cursor")
    directory = FixedDirectory([publisher.address])

    async def read(count: int) -> list[int]:
        async with follow(
            directory, cursors=store, patience=PATIENCE, connect=cluster.broker.connect
        ) as follower:
            return told(await take(follower, count)).get("a", [])

    assert await read(6) == [1, 2, 3, 4, 5]
    assert store.load() == {StreamId("a"): Position(1000, 4)}
    assert await read(3) == [5, 6]
    async with follow(
        directory, cursors=store, patience=PATIENCE, connect=cluster.broker.connect
    ) as follower:
        await take(follower, 2)
        follower.finish()
    assert await read(5) == [7, 8, 9, 10]
    cluster.close()


async def test_positions_are_saved_while_reading_and_a_full_disk_is_survived() -> None:
    class Flaky:
        """Fails the first time, then keeps what it is given."""

        def __init__(self) -> None:
            self.saved: list[Mapping[StreamId, Position]] = []
            self.failures = 0

        def load(self) -> dict[StreamId, Position]:
            return {}

        def save(self, positions: Mapping[StreamId, Position]) -> None:
            if not self.failures:
                self.failures += 1
                raise OSError("no space left")
            self.saved.append(dict(positions))

    cluster, store = Cluster(), Flaky()
    publisher = cluster.join("a")
    publisher.publish_turn(turn(1))
    async with follow(
        cluster.directory,
        cursors=store,
        save_every_s=0.005,
        patience=PATIENCE,
        connect=cluster.broker.connect,
    ) as follower:
        await take(follower, 3)
        await until(lambda: bool(store.saved))

        assert store.saved == [{StreamId("a"): Position(1000, 1)}]
    cluster.close()


async def test_a_directory_that_fails_is_asked_again() -> None:
    class Failing(FakeDirectory):
        calls = 0

        async def watch(self):  # type: ignore[no-untyped-def,override] # noqa: ANN202 - a generator
            self.calls += 1
            if self.calls == 1:
                raise ConnectionError("discovery is away")
            async for event in super().watch():
                yield event

    cluster = Cluster()
    cluster.directory = Failing()
    cluster.join("a")
    async with follow(
        cluster.directory, patience=PATIENCE, connect=cluster.broker.connect
    ) as follower:
        assert isinstance((await take(follower, 1))[0], StreamJoined)
        assert follower.directory_failures == 1
    cluster.close()


async def test_a_known_address_is_not_a_worker_that_could_be_asked() -> None:
    with pytest.raises(ConnectionError, match="worker of w/0 is not known"):
        await FixedDirectory([]).tokenizer_assets(StreamId("w"))
