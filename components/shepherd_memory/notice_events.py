"""Publishes notices as a stream of the KV event protocol, for whoever follows streams anyway.

The stream's only bodies are notices, besides heartbeats.  Readers that come late
or miss something ask for a replay as of any other stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from shepherd_config.addresses import is_loopback
from shepherd_events.errors import TransportError
from shepherd_events.events import StreamId, StreamInfo
from shepherd_events.publisher import KvEventPublisher
from shepherd_memory.archive.records import StoredNotice

STREAM = StreamId("memory")


class NoticeEvents:
    """`Sink` on a publisher that has been started."""

    name = "events"

    def __init__(self, publisher: KvEventPublisher) -> None:
        self._publisher = publisher

    async def deliver(self, row: StoredNotice) -> None:
        """See `Sink.deliver`; queued for the publisher's own thread, never refused."""
        self._publisher.publish_notice(row.notice)


def endpoint_of(address: str) -> tuple[str, int]:
    """Host and port of `tcp://HOST:PORT`.

    Raises:
        ValueError: it has another form, or others could reach it.
    """
    parts = urlsplit(address)
    if parts.scheme != "tcp" or not parts.hostname or not parts.port:
        raise ValueError("tcp://HOST:PORT")
    if not is_loopback(parts.hostname):
        raise ValueError("a loopback address: notices quote what was said")
    return parts.hostname, parts.port


@contextmanager
def publishing(address: str) -> Iterator[NoticeEvents]:
    """The sink on a ZMQ endpoint.

    Raises:
        OSError: it cannot be listened on.
    """
    from shepherd_events.transports.zmq import ZmqPublisherTransport  # noqa: PLC0415 - only if asked

    transport = ZmqPublisherTransport(*endpoint_of(address))
    publisher = KvEventPublisher(STREAM, StreamInfo("", 0, ""), transport)
    try:
        publisher.start()
    except TransportError as error:
        raise OSError(f"--notice-events {address} cannot be listened on: {error}") from error
    try:
        yield NoticeEvents(publisher)
    finally:
        publisher.close("the memory service stops")
