"""What a reader may ask of the SDK: one URL, a filter, a set that follows, with and without asyncio."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shepherd_events.cursor_store import FileCursorStore
from shepherd_events.errors import NoAnswerError
from shepherd_events.event_filter import EventFilter, Op
from shepherd_events.events import BlockBatch, Frame, StreamId, Tier
from shepherd_events.follow import FixedDirectory, StreamItem, follow
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.resident_set import ResidentSet
from shepherd_events.stream_cursor import Position
from shepherd_events.subscribe_sync import subscribe_sync
from shepherd_events.subscriber import StreamState, subscribe
from shepherd_events.transports.memory import MemoryBroker
from shepherd_events.transports.zmq import ZmqPublisherTransport
from stream_readers import DEADLINE_S, INFO, STREAM, removed, stored, turn, wait_until
from stream_source import PATIENCE, started


@pytest.fixture
def publisher() -> Iterator[KvEventPublisher]:
    publisher = KvEventPublisher(STREAM, INFO, ZmqPublisherTransport(), heartbeat_s=0.02)
    publisher.start()
    publisher.publish([stored(1, 2)])
    yield publisher
    publisher.close("done")


async def test_a_url_is_all_that_a_reader_needs(publisher: KvEventPublisher) -> None:
    wait_until(lambda: publisher.counters.frames == 2)
    async with subscribe(publisher.address.live) as stream:
        items = [await anext(stream) for _ in range(2)]

    assert [item.seq for item in items if isinstance(item, Frame)] == [1, 2]


@pytest.mark.parametrize("url", ["tcp://nowhere", "udp://127.0.0.1:1", "worker-1"])
async def test_a_text_that_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is no stream: expected tcp://HOST:PORT"):
        async with subscribe(url):
            pass


async def test_a_url_at_which_nobody_answers_is_told() -> None:
    with pytest.raises(NoAnswerError, match=r"did not answer within 0\.2 s"):
        async with subscribe("tcp://127.0.0.1:9?control=9&worker=w", patience=PATIENCE):
            pass


async def test_what_is_not_wanted_is_not_handed_out_and_the_position_moves_past_it() -> None:
    source = started()
    residents = ResidentSet()
    wanted = EventFilter(ops=frozenset({Op.REMOVED}), tiers=frozenset({Tier.DEVICE}))
    async with subscribe(
        source.address, residents=residents, wanted=wanted, connect=source.broker.connect
    ) as stream:
        source.tell(stored(9, tier=Tier.HOST))
        source.tell(removed(9, tier=Tier.HOST), removed(3))
        item = await anext(stream)

        assert isinstance(item, Frame)
        assert item.body == BlockBatch((removed(3),))
        assert stream.position == Position(source.epoch, 5)
        assert residents.digest() == source.residents.digest()
        assert stream.state is StreamState.LIVE


async def test_following_leaves_out_other_workers_and_events_and_remembers_how_far_it_got(
    tmp_path: Path,
) -> None:
    broker = MemoryBroker()
    publishers = [
        KvEventPublisher(StreamId(name), INFO, broker.publisher(name), heartbeat_s=0.02)
        for name in ("a", "b")
    ]
    for each in publishers:
        each.start()
        each.publish_turn(turn(1))
        each.publish([stored(1)])
        each.publish_turn(turn(2))
    store = FileCursorStore(tmp_path / "cursor")
    async with follow(
        FixedDirectory([each.address for each in publishers]),
        cursors=store,
        wanted=EventFilter(workers=frozenset({"b"}), ops=frozenset({Op.STORED})),
        connect=broker.connect,
    ) as follower:
        changes = [await anext(follower) for _ in range(2)]
        assert [stream.worker_id for stream in follower.streams] == ["b"]
        item = changes[1]
        assert isinstance(item, StreamItem)
        assert item.position.seq == 3
        follower.finish()

    assert {stream.worker_id: at.seq for stream, at in store.load().items()} == {"b": 3}
    for each in publishers:
        each.close("done")


def test_without_asyncio_a_set_follows_and_is_compared_with_the_publishers(
    publisher: KvEventPublisher,
) -> None:
    residents = ResidentSet()
    wanted = EventFilter(ops=frozenset({Op.STORED}))
    with subscribe_sync(publisher.address.live, residents=residents, wanted=wanted) as stream:
        item = stream.next(DEADLINE_S)
        assert isinstance(item, Frame)
        assert (item.seq, residents.hashes()) == (2, {1, 2})
        publisher.publish([stored(3)])
        assert isinstance(stream.next(DEADLINE_S), Frame)
        assert residents.hashes() == {1, 2, 3}
        with pytest.raises(TimeoutError):
            stream.next(timeout_s=0.2)

        assert stream.counters.digest_checks > 0
        assert stream.counters.digest_mismatches == 0
