"""Finds out what is behind a live ZMQ endpoint, by listening to it once."""

from __future__ import annotations

import asyncio

import zmq
import zmq.asyncio

from shepherd_events.codec import MAX_FRAME_BYTES, decode_frame
from shepherd_events.errors import CodecError, NoAnswerError, TransportError
from shepherd_events.events import Frame, Heartbeat
from shepherd_events.transports.credentials import CurveCredentials
from shepherd_events.transports.zmq import check_is_near
from shepherd_events.transports.zmq_curve import reader_keys


async def next_heartbeat(
    endpoint: str, timeout_s: float, curve: CurveCredentials | None = None
) -> Frame:
    """The next heartbeat that is sent at `endpoint`, by whatever stream.

    Raises:
        NoAnswerError: none came in time.
        TransportError: `endpoint` cannot be connected to, at all or like this.
    """
    keys = None if curve is None else reader_keys(curve)
    if keys is None:
        check_is_near(endpoint)
    socket = zmq.asyncio.Context.instance().socket(zmq.SUB)
    try:
        socket.linger = 0
        socket.maxmsgsize = MAX_FRAME_BYTES
        socket.ipv6 = "[" in endpoint
        if keys is not None:
            own, socket.curve_serverkey = keys
            own.put_on(socket)
        socket.subscribe(b"kv.v1.")
        socket.connect(endpoint)
        async with asyncio.timeout(timeout_s):
            while True:
                frame = _frame(await socket.recv_multipart())
                if frame is not None and isinstance(frame.body, Heartbeat):
                    return frame
    except TimeoutError:
        raise NoAnswerError(endpoint, timeout_s) from None
    except zmq.ZMQError as error:
        raise TransportError(f"cannot connect to {endpoint!r}: {error}") from error
    finally:
        socket.close(linger=0)


def _frame(parts: list[bytes]) -> Frame | None:
    try:
        return decode_frame(parts[-1])
    except CodecError:
        return None
