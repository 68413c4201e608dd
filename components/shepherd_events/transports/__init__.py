"""Wires for the stream: in memory, ZMQ and NATS, behind one Protocol."""

from __future__ import annotations

from shepherd_events.errors import TransportError
from shepherd_events.events import StreamAddress
from shepherd_events.transports.protocol import SubscriberTransport


def connect(address: StreamAddress) -> SubscriberTransport:
    """The receiving end for a stream that another process publishes.

    Raises:
        TransportError: the address names no such transport, or no valid endpoint.
    """
    match address.transport:
        case "zmq":
            from shepherd_events.transports.zmq import (  # noqa: PLC0415 - other wires need no ZMQ
                ZmqSubscriberTransport,
            )

            return ZmqSubscriberTransport(address)
        case "nats":
            from shepherd_events.transports.nats_subscriber import (  # noqa: PLC0415 - an extra
                NatsSubscriberTransport,
            )

            return NatsSubscriberTransport(address)
        case "memory":
            raise TransportError(
                f"{address.live} exists only in its own process: pass its broker's `connect`"
            )
        case other:
            raise TransportError(f"transport {other!r} is not known: expected 'zmq' or 'nats'")
