"""Wires for the stream: in memory, ZMQ and NATS, behind one Protocol."""

from __future__ import annotations

from shepherd_events.errors import TransportError
from shepherd_events.events import StreamAddress
from shepherd_events.transports.credentials import ReaderCredentials
from shepherd_events.transports.protocol import SubscriberTransport

NO_CREDENTIALS = ReaderCredentials()


def connect(
    address: StreamAddress, credentials: ReaderCredentials = NO_CREDENTIALS
) -> SubscriberTransport:
    """The receiving end for a stream that another process publishes.

    Raises:
        TransportError: the address names no such transport, or no valid endpoint.
        CredentialsError: a file of keys cannot be used.
    """
    match address.transport:
        case "zmq":
            from shepherd_events.transports.zmq import (  # noqa: PLC0415 - other wires need no ZMQ
                ZmqSubscriberTransport,
            )

            return ZmqSubscriberTransport(address, curve=credentials.curve)
        case "nats":
            from shepherd_events.transports.nats_subscriber import (  # noqa: PLC0415 - an extra
                NatsSubscriberTransport,
            )

            return NatsSubscriberTransport(address, credentials.nats)
        case "memory":
            raise TransportError(
                f"{address.live} exists only in its own process: pass its broker's `connect`"
            )
        case other:
            raise TransportError(f"transport {other!r} is not known: expected 'zmq' or 'nats'")
