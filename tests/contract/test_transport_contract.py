"""What every transport promises; see `transports/protocol.py`."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import pytest

from curve_keys import CurveKeys
from nats_broker import NatsBroker
from shepherd_events.errors import NoAnswerError, TransportError
from shepherd_events.events import StreamAddress, StreamId
from shepherd_events.transports import connect
from shepherd_events.transports.credentials import ReaderCredentials
from shepherd_events.transports.memory import MemoryBroker
from shepherd_events.transports.nats_publisher import NatsPublisherTransport
from shepherd_events.transports.protocol import (
    Connect,
    PublisherTransport,
    SubscriberTransport,
    topic_of,
)
from shepherd_events.transports.zmq import ZmqPublisherTransport

STREAM = StreamId("worker-1", 0)
TOPIC = topic_of(STREAM)
TIMEOUT_S = 5.0


class Wires:
    """Makes both ends of one kind of transport, any number of times at one place."""

    def __init__(self, publisher: Callable[[], PublisherTransport], connect: Connect) -> None:
        self.publisher = publisher
        self.connect = connect


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsBroker]:
    broker = NatsBroker(tmp_path_factory.mktemp("nats")).start()
    yield broker
    broker.kill()


@pytest.fixture(params=["memory", "zmq", "curve", "nats"])
def wires(request: pytest.FixtureRequest, tmp_path: Path) -> Wires:
    if request.param == "curve":
        keys = CurveKeys(tmp_path)
        return Wires(
            lambda: ZmqPublisherTransport(curve=keys.publisher),
            partial(connect, credentials=ReaderCredentials(curve=keys.reader())),
        )
    if request.param == "zmq":
        return Wires(ZmqPublisherTransport, connect)
    if request.param == "nats":
        nats: NatsBroker = request.getfixturevalue("broker")
        return Wires(lambda: NatsPublisherTransport(nats.url, STREAM), connect)
    broker = MemoryBroker()
    return Wires(lambda: broker.publisher("worker-1"), broker.connect)


def echo(payload: bytes) -> bytes:
    return b"re: " + payload


@contextmanager
def bound(
    wires: Wires, answer: Callable[[bytes], bytes] = echo, *, stream: StreamId = STREAM
) -> Iterator[tuple[PublisherTransport, StreamAddress]]:
    publisher = wires.publisher()
    endpoints = publisher.bind(answer)
    try:
        yield (
            publisher,
            StreamAddress(stream, 1, publisher.kind, endpoints.live, endpoints.control),
        )
    finally:
        publisher.close()


@asynccontextmanager
async def connected(
    wires: Wires, publisher: PublisherTransport, address: StreamAddress
) -> AsyncIterator[SubscriberTransport]:
    """A reader whose live wire is known to carry."""
    reader = wires.connect(address)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            first = asyncio.ensure_future(reader.receive())
            while not first.done():
                publisher.send(TOPIC, b"probe")
                await asyncio.wait([first], timeout=0.01)
            publisher.send(TOPIC, b"begin")
            while await reader.receive() != b"begin":
                pass
        yield reader
    finally:
        await reader.close()


async def test_frames_arrive_in_the_order_in_which_they_were_sent(wires: Wires) -> None:
    with bound(wires) as (publisher, address):
        async with connected(wires, publisher, address) as reader:
            sent = [bytes([number]) * 100 for number in range(50)]
            for payload in sent:
                publisher.send(TOPIC, payload)

            async with asyncio.timeout(TIMEOUT_S):
                assert [await reader.receive() for _ in sent] == sent


async def test_every_reader_gets_every_frame(wires: Wires) -> None:
    with bound(wires) as (publisher, address):
        async with (
            connected(wires, publisher, address) as one,
            connected(wires, publisher, address) as other,
        ):
            publisher.send(TOPIC, b"for both")

            async with asyncio.timeout(TIMEOUT_S):
                assert await other.receive() == b"for both"
                while await one.receive() != b"for both":
                    pass


async def test_a_reader_that_listens_anew_hears_what_is_sent_from_then_on(wires: Wires) -> None:
    with bound(wires) as (publisher, address):
        async with connected(wires, publisher, address) as reader:
            reader.renew()

            async with asyncio.timeout(TIMEOUT_S):
                heard = asyncio.ensure_future(reader.receive())
                while not heard.done():
                    publisher.send(TOPIC, b"again")
                    await asyncio.wait([heard], timeout=0.01)
            assert await heard == b"again"


async def test_frames_of_a_stream_whose_name_begins_alike_are_not_received(wires: Wires) -> None:
    with bound(wires) as (publisher, address):
        async with connected(wires, publisher, address) as reader:
            publisher.send(topic_of(StreamId("worker-1", 10)), b"of rank ten")
            publisher.send(TOPIC + "0", b"of rank zero, zero")
            publisher.send(TOPIC, b"mine")

            async with asyncio.timeout(TIMEOUT_S):
                assert await reader.receive() == b"mine"


async def test_sending_without_any_reader_does_not_wait(wires: Wires) -> None:
    with bound(wires) as (publisher, _):
        begin = time.monotonic()
        for _ in range(2000):
            publisher.send(TOPIC, bytes(1000))

        assert time.monotonic() - begin < TIMEOUT_S


async def test_a_reader_that_does_not_read_loses_frames_and_holds_nobody_up(wires: Wires) -> None:
    with bound(wires) as (publisher, address):
        async with connected(wires, publisher, address) as reader:
            begin = time.monotonic()
            for _ in range(3000):
                publisher.send(TOPIC, bytes(20_000))
            publisher.send(TOPIC, b"last")

            assert time.monotonic() - begin < TIMEOUT_S
            assert len(await reader.receive()) == 20_000


async def test_a_request_is_answered_with_its_reply(wires: Wires) -> None:
    with bound(wires) as (_, address):
        reader = wires.connect(address)

        assert await reader.request(b"one", TIMEOUT_S) == b"re: one"
        assert await reader.request(b"two", TIMEOUT_S) == b"re: two"
        await reader.close()


async def test_a_reply_of_a_megabyte_arrives(wires: Wires) -> None:
    with bound(wires, lambda payload: payload * (1 << 20)) as (_, address):
        reader = wires.connect(address)

        assert await reader.request(b"x", TIMEOUT_S) == b"x" * (1 << 20)
        await reader.close()


async def test_requests_are_answered_one_at_a_time_in_another_thread(wires: Wires) -> None:
    inside = threading.Lock()
    threads: set[int] = set()

    def answer(payload: bytes) -> bytes:
        assert inside.acquire(blocking=False)
        threads.add(threading.get_ident())
        time.sleep(0.005)
        inside.release()
        return payload

    with bound(wires, answer) as (_, address):
        readers = [wires.connect(address) for _ in range(5)]
        asked = (reader.request(b"x", TIMEOUT_S) for reader in readers)

        assert await asyncio.gather(*asked) == [b"x"] * 5
        assert threading.get_ident() not in threads
        for reader in readers:
            await reader.close()


async def test_a_request_that_nobody_answers_fails_in_time(wires: Wires) -> None:
    with bound(wires) as (_, address):
        pass
    reader = wires.connect(address)

    begin = time.monotonic()
    with pytest.raises(NoAnswerError) as caught:
        await reader.request(b"x", 0.05)
    assert caught.value.endpoint == address.control
    assert time.monotonic() - begin < TIMEOUT_S
    await reader.close()


async def test_a_late_reply_is_not_taken_for_the_next_one(wires: Wires) -> None:
    release = threading.Event()

    def answer(payload: bytes) -> bytes:
        if payload == b"slow":
            release.wait(TIMEOUT_S)
        return echo(payload)

    with bound(wires, answer) as (_, address):
        reader = wires.connect(address)
        with pytest.raises(NoAnswerError):
            await reader.request(b"slow", 0.05)
        release.set()

        assert await reader.request(b"quick", TIMEOUT_S) == b"re: quick"
        await reader.close()


async def test_a_slow_control_request_does_not_hold_up_live_frames(wires: Wires) -> None:
    release = threading.Event()

    def answer(payload: bytes) -> bytes:
        release.wait(TIMEOUT_S)
        return payload

    with bound(wires, answer) as (publisher, address):
        async with connected(wires, publisher, address) as reader:
            asked = asyncio.ensure_future(reader.request(b"x", TIMEOUT_S))
            await asyncio.sleep(0)
            publisher.send(TOPIC, b"live")

            async with asyncio.timeout(TIMEOUT_S):
                assert await reader.receive() == b"live"
            assert not asked.done()
            release.set()
            assert await asked == b"x"


async def test_a_cancelled_receive_loses_nothing_that_comes_later(wires: Wires) -> None:
    with bound(wires) as (publisher, address):
        async with connected(wires, publisher, address) as reader:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await reader.receive()
            publisher.send(TOPIC, b"afterwards")

            async with asyncio.timeout(TIMEOUT_S):
                assert await reader.receive() == b"afterwards"


async def test_closing_twice_is_harmless_on_both_ends(wires: Wires) -> None:
    with bound(wires) as (publisher, address):
        reader = wires.connect(address)
        await reader.close()
        await reader.close()
        publisher.close()
        publisher.close()


async def test_a_place_is_free_again_after_closing(wires: Wires) -> None:
    with bound(wires) as (_, address):
        pass
    with bound(wires) as (publisher, address):
        async with connected(wires, publisher, address) as reader:
            assert await reader.request(b"x", TIMEOUT_S) == b"re: x"


async def test_an_address_without_such_a_transport_is_refused() -> None:
    with pytest.raises(TransportError, match="'pigeon' is not known"):
        connect(StreamAddress(STREAM, 1, "pigeon", "a", "b"))
    with pytest.raises(TransportError, match="pass its broker's `connect`"):
        connect(StreamAddress(STREAM, 1, "memory", "memory://a", "memory://a"))
    with pytest.raises(TransportError, match="cannot connect to 'nonsense'"):
        connect(StreamAddress(STREAM, 1, "zmq", "nonsense", "nonsense"))
