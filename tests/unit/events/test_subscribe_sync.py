"""The stream without asyncio: the same items, timeouts, and a close from anywhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from shepherd_events.errors import TransportError
from shepherd_events.events import Frame, StreamAddress
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.stream_cursor import Position
from shepherd_events.subscribe_sync import subscribe_sync
from shepherd_events.subscriber import StreamState
from shepherd_events.transports.zmq import ZmqPublisherTransport
from stream_readers import INFO, STREAM, turn, wait_until


@pytest.fixture
def publisher() -> Iterator[KvEventPublisher]:
    publisher = KvEventPublisher(STREAM, INFO, ZmqPublisherTransport(), heartbeat_s=0.05)
    publisher.start()
    yield publisher
    publisher.close("done")


def test_an_ordinary_loop_sees_every_frame_and_the_position_of_each(
    publisher: KvEventPublisher,
) -> None:
    for number in range(300):
        publisher.publish_turn(turn(number))
    numbers = []
    with subscribe_sync(publisher.address) as stream:
        for item in stream:
            assert isinstance(item, Frame)
            assert stream.position == Position(item.epoch, item.seq)
            numbers.append(item.seq)
            if item.seq == 301:
                break
        wait_until(lambda: stream.state is StreamState.LIVE)

    assert numbers == list(range(1, 302))


def test_waiting_ends_when_the_time_does_and_loses_nothing(publisher: KvEventPublisher) -> None:
    with subscribe_sync(publisher.address, after=Position(publisher.epoch, 1)) as stream:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                stream.next(timeout_s=0.02)
        publisher.publish_turn(turn(1))
        item = stream.next(timeout_s=10)

        assert isinstance(item, Frame)
        assert item.body == turn(1)
        assert stream.counters.frames == 1


def test_who_waits_for_an_item_is_told_when_another_thread_closes(
    publisher: KvEventPublisher,
) -> None:
    with subscribe_sync(publisher.address, after=Position(publisher.epoch, 1)) as stream:
        seen: list[object] = []
        reading = threading.Thread(target=lambda: seen.extend(stream))
        reading.start()
        wait_until(lambda: stream._fetching is not None)
        stream.close()
        reading.join(timeout=5)

        assert not reading.is_alive()
        assert seen == []
        assert list(stream) == []
        stream.close()


def test_no_thread_is_left_behind(publisher: KvEventPublisher) -> None:
    before = threading.active_count()
    with subscribe_sync(publisher.address) as stream:
        next(stream)
        assert threading.active_count() > before
    with pytest.raises(TransportError):
        subscribe_sync(StreamAddress(STREAM, 1, "pigeon", "x", "x")).__enter__()

    assert not [t for t in threading.enumerate() if t.name == "kv-events-reader"]
