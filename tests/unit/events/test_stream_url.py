"""Addresses as a person writes them."""

from __future__ import annotations

import pytest

from shepherd_events.errors import NoAnswerError, TransportError
from shepherd_events.events import StreamAddress, StreamId
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.stream_url import StreamUrl, resolve
from shepherd_events.transports.nats_connection import Subjects
from shepherd_events.transports.zmq import ZmqPublisherTransport
from stream_readers import INFO


@pytest.mark.parametrize(
    ("url", "parsed"),
    [
        ("tcp://127.0.0.1:5557", StreamUrl("zmq", "tcp://127.0.0.1:5557")),
        ("tcp://[::1]:5557", StreamUrl("zmq", "tcp://[::1]:5557")),
        (
            "tcp://[::1]:5557?control=5558&worker=w&rank=2",
            StreamUrl("zmq", "tcp://[::1]:5557", "tcp://[::1]:5558", StreamId("w", 2)),
        ),
        (
            "nats://h:4222/kv.v1.w.1",
            StreamUrl(
                "nats",
                "nats://h:4222/kv.v1.w.1",
                "nats://h:4222/kv.control.v1.w.1",
                StreamId("w", 1),
            ),
        ),
    ],
)
def test_a_url_says_where_a_stream_is(url: str, parsed: StreamUrl) -> None:
    assert StreamUrl.parse(url) == parsed


@pytest.mark.parametrize("worker", ["plain", "a.b", "päivi=1", "with space"])
def test_any_name_of_a_worker_comes_back_from_its_subject(worker: str) -> None:
    subjects = Subjects.of(StreamId(worker, 3))
    parsed = StreamUrl.parse(f"nats://h:4222/{subjects.live}")

    assert parsed.stream == StreamId(worker, 3)
    assert parsed.control == f"nats://h:4222/{subjects.control}"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("worker-1", "'worker-1' is no stream: expected tcp://HOST:PORT or nats://"),
        ("tcp://127.0.0.1", "is no stream: expected tcp"),
        ("tcp://127.0.0.1:99999", "is no stream: Port out of range"),
        ("http://127.0.0.1:80", "is no stream"),
        ("tcp://h:1?controll=2", "'controll' is not known: expected control, worker and rank"),
        ("tcp://h:1?rank=x", "rank='x' is no number"),
        ("nats://h:4222", "names no stream"),
        ("nats://h:4222/orders.new", "names no stream"),
    ],
)
def test_what_is_no_url_is_refused_with_what_was_expected(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=r".+") as caught:
        StreamUrl.parse(url)

    assert words in str(caught.value)


async def test_the_live_endpoint_alone_is_enough() -> None:
    publisher = KvEventPublisher(StreamId("w", 3), INFO, ZmqPublisherTransport(), heartbeat_s=0.02)
    publisher.start()
    try:
        by_heartbeat = await resolve(StreamUrl.parse(publisher.address.live))
        control = publisher.address.control.rpartition(":")[2]
        url = f"{publisher.address.live}?control={control}&worker=w&rank=3"
        by_request = await resolve(StreamUrl.parse(url))
    finally:
        publisher.close("done")

    assert by_heartbeat == by_request == publisher.address
    assert isinstance(by_request, StreamAddress)


async def test_an_endpoint_where_nobody_speaks_is_an_error_that_names_it() -> None:
    with pytest.raises(NoAnswerError, match=r"tcp://127\.0\.0\.1:1 did not answer within 0\.05 s"):
        await resolve(StreamUrl.parse("tcp://127.0.0.1:1"), timeout_s=0.05)
    with pytest.raises(TransportError):
        url = "tcp://127.0.0.1:1?control=2&worker=w"
        await resolve(StreamUrl.parse(url), timeout_s=0.05)
