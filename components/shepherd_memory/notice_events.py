"""Publishes notices as a stream of the KV event protocol, for whoever follows streams anyway.

The stream's only bodies are notices, besides heartbeats.  Readers that come late
or miss something ask for a replay as of any other stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from shepherd_config import OptionError
from shepherd_events.errors import TransportError
from shepherd_events.events import StreamId, StreamInfo
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.transports.protocol import PublisherTransport
from shepherd_memory.archive.records import StoredNotice

STREAM = StreamId("memory")
FLAG = "--notice-events"


class NoticeEvents:
    """`Sink` on a publisher that has been started."""

    name = "events"

    def __init__(self, publisher: KvEventPublisher) -> None:
        self._publisher = publisher

    async def deliver(self, row: StoredNotice) -> None:
        """See `Sink.deliver`; queued for the publisher's own thread, never refused."""
        self._publisher.publish_notice(row.notice)


@contextmanager
def publishing(address: str) -> Iterator[NoticeEvents]:
    """The sink on a ZMQ endpoint.

    Raises:
        OptionError: the address is not one of this machine's own.
    """
    publisher = KvEventPublisher(STREAM, StreamInfo("", 0, ""), _transport(address))
    try:
        publisher.start()
    except TransportError as error:
        raise OptionError(FLAG, address, f"an address that can be listened on ({error})") from error
    try:
        yield NoticeEvents(publisher)
    finally:
        publisher.close("the memory service stops")


def _transport(address: str) -> PublisherTransport:
    from shepherd_events.transports.zmq import ZmqPublisherTransport  # noqa: PLC0415 - only if asked

    parts = urlsplit(address)
    try:
        if parts.scheme != "tcp" or not parts.hostname or parts.port is None:
            raise OptionError(FLAG, address, "tcp://HOST:PORT")
        return ZmqPublisherTransport(parts.hostname, parts.port)
    except (TransportError, ValueError) as error:
        raise OptionError(FLAG, address, f"tcp://HOST:PORT on loopback ({error})") from error
