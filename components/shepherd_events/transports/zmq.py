"""The wire over ZeroMQ: PUB for live frames, ROUTER for control, both over TCP.

    live      [topic, frame]                      PUB -> SUB, drops beyond its high-water mark
    control   [request id, request] / [.., reply] DEALER <-> ROUTER, one request at a time

Without CURVE keys readers are not authenticated, so that only loopback addresses
are listened on; with them both sockets are encrypted and behind a gate.  A frame
crosses two bounded queues and the kernel's buffers; what does not fit is dropped
there and found missing by the reader.  A reader that stops in the middle of a
replay holds back a few replies of its own and nothing else.

Source: the ZeroMQ guide's Clone pattern (chapter 5), less its server-side state.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

import zmq
import zmq.asyncio

from shepherd_events.codec import MAX_FRAME_BYTES, MAX_MESSAGE_BYTES
from shepherd_events.errors import ListenerRefusedError, NoAnswerError, TransportError
from shepherd_events.events import StreamAddress
from shepherd_events.transports.addresses import is_loopback, is_wildcard
from shepherd_events.transports.credentials import CurveCredentials
from shepherd_events.transports.protocol import Backlog, Endpoints, topic_of
from shepherd_events.transports.zmq_curve import Gate, reader_keys

logger = logging.getLogger(__name__)

DEFAULT_HWM_FRAMES = 1000

_GOODBYE_LINGER_MS = 500
_MAX_REQUEST_BYTES = 64 << 10
_UNREAD_REPLIES = 4
"""Replies that wait for one reader; more are dropped, and the reader asks again."""
_MAX_SOCKETS = 65_535
"""Of all readers of one process, two each; libzmq allows 1023 unless it is told before the first."""
_RECONNECT_MS = 50
_RECONNECT_MAX_MS = 2000
DEFAULT_PING_S = 2.0
"""A reader only listens: without pings, a connection whose other end vanished without a word, or
which lost its framing, would look alive for ever."""
_MISSED_PINGS = 3


class ZmqPublisherTransport:
    """The sending end; see `PublisherTransport`."""

    kind = "zmq"

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        control_port: int = 0,
        *,
        curve: CurveCredentials | None = None,
        send_hwm_frames: int = DEFAULT_HWM_FRAMES,
    ) -> None:
        """Port 0 takes any that is free.

        Raises:
            ListenerRefusedError: `host` is not a loopback address and there are no keys, or it
                is every address, which no reader could connect to.
            CredentialsError: a file of keys cannot be used.
        """
        if is_wildcard(host) or (curve is None and not is_loopback(host)):
            raise ListenerRefusedError(host)
        self._gate = None if curve is None else Gate(curve)
        self._host = f"[{host}]" if ":" in host else host
        self._port = port
        self._control_port = control_port
        self._send_hwm_frames = send_hwm_frames
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None

    @property
    def num_refused(self) -> int:
        """Handshakes that failed."""
        return 0 if self._gate is None else self._gate.num_refused

    @property
    def backlog(self) -> Backlog:
        """See `PublisherTransport.backlog`: nobody confirms anything."""
        return Backlog()

    def last_epoch(self) -> int:
        """Nothing outlives its publisher here."""
        return 0

    def bind(self, answer: Callable[[bytes], bytes]) -> Endpoints:
        """Listen on both ports and start the thread that answers."""
        self._context = zmq.Context()
        self._live = self._context.socket(zmq.PUB)
        self._live.set_hwm(self._send_hwm_frames)
        # A listener takes a copy for its connections: set later, one that breaks now lingers for ever.
        self._live.linger = _GOODBYE_LINGER_MS
        control = self._context.socket(zmq.ROUTER)
        control.set_hwm(_UNREAD_REPLIES)
        control.linger = 0
        control.maxmsgsize = _MAX_REQUEST_BYTES
        if self._gate is not None:
            self._gate.open(self._context)
            self._gate.guard(self._live, "live")
            self._gate.guard(control, "control")
            self._gate.start()
        try:
            endpoints = Endpoints(
                live=self._listen(self._live, self._port),
                control=self._listen(control, self._control_port),
            )
        except TransportError:
            self._live.close()
            control.close()
            self._context.term()
            self._context = None
            raise
        self._answering = threading.Thread(
            target=_serve, args=(control, answer), name="kv-events-control", daemon=True
        )
        self._answering.start()
        return endpoints

    def send(self, topic: str, payload: bytes, frame_id: str = "") -> None:
        """Hand a frame to libzmq, which drops it for readers that are behind."""
        del frame_id
        try:
            self._live.send_multipart((topic.encode(), payload), zmq.NOBLOCK)
        except zmq.ZMQError as error:
            raise TransportError(f"cannot send to {topic}: {error}") from error

    def close(self) -> None:
        """Let the last frames leave, then free both ports."""
        if self._context is None:
            return
        self._live.close()
        self._context.term()
        self._context = None
        self._answering.join()
        if self._gate is not None:
            self._gate.join()

    def _listen(self, socket: zmq.Socket[bytes], port: int) -> str:
        endpoint = f"tcp://{self._host}:{port}"
        socket.ipv6 = self._host.startswith("[")
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            raise TransportError(f"cannot listen on {endpoint}: {error}") from error
        return socket.getsockopt_string(zmq.LAST_ENDPOINT)


class ZmqSubscriberTransport:
    """The receiving end; see `SubscriberTransport`."""

    def __init__(
        self,
        address: StreamAddress,
        *,
        curve: CurveCredentials | None = None,
        receive_hwm_frames: int = DEFAULT_HWM_FRAMES,
        ping_s: float = DEFAULT_PING_S,
    ) -> None:
        """Raises TransportError where the address cannot be connected to, at all or like this."""
        self._address = address
        self._keys = None if curve is None else reader_keys(curve)
        if curve is None:
            check_is_near(address.live)
        self._ping_ms = round(1000 * ping_s)
        self._topic = topic_of(address.stream).encode()
        self._context = zmq.asyncio.Context.instance()
        self._context.set(zmq.MAX_SOCKETS, _MAX_SOCKETS)
        self._receive_hwm_frames = receive_hwm_frames
        self._live = self._connect_live()
        self._control = self._connect_control()
        self._last_request = 0

    async def receive(self) -> bytes:
        """The next frame of this stream; others that share its topic's beginning are skipped."""
        while True:
            match await self._live.recv_multipart():
                case [self._topic, payload]:
                    return payload
                case parts:
                    logger.debug("foreign message skipped", extra={"num_parts": len(parts)})

    def renew(self) -> None:
        """Connect anew: libzmq gives a connection up for good over which a message came too large."""
        self._live.close(linger=0)
        self._live = self._connect_live()

    async def request(self, payload: bytes, timeout_s: float) -> bytes:
        """Ask over DEALER; after a silence the next request takes a fresh connection."""
        self._last_request += 1
        request_id = self._last_request.to_bytes(8, "big")
        try:
            async with asyncio.timeout(timeout_s):
                await self._control.send_multipart((request_id, payload))
                while True:
                    match await self._control.recv_multipart():
                        case [answered, reply] if answered == request_id:
                            return reply
                        case parts:
                            logger.debug("late reply skipped", extra={"num_parts": len(parts)})
        except TimeoutError:
            self._control.close(linger=0)
            self._control = self._connect_control()
            raise NoAnswerError(self._address.control, timeout_s) from None

    async def close(self) -> None:
        """Disconnect at once."""
        self._live.close(linger=0)
        self._control.close(linger=0)

    def _connect_live(self) -> zmq.asyncio.Socket:
        hwm = self._receive_hwm_frames
        socket = self._connect(zmq.SUB, self._address.live, hwm, MAX_FRAME_BYTES)
        socket.subscribe(self._topic)
        return socket

    def _connect_control(self) -> zmq.asyncio.Socket:
        return self._connect(zmq.DEALER, self._address.control, _UNREAD_REPLIES, MAX_MESSAGE_BYTES)

    def _connect(
        self, socket_type: int, endpoint: str, hwm: int, max_bytes: int
    ) -> zmq.asyncio.Socket:
        socket = self._context.socket(socket_type)
        socket.set_hwm(hwm)
        socket.linger = 0
        socket.maxmsgsize = max_bytes
        socket.reconnect_ivl = _RECONNECT_MS
        socket.reconnect_ivl_max = _RECONNECT_MAX_MS
        socket.heartbeat_ivl = self._ping_ms
        socket.heartbeat_timeout = _MISSED_PINGS * self._ping_ms
        socket.ipv6 = "[" in endpoint
        if self._keys is not None:
            own, socket.curve_serverkey = self._keys
            own.put_on(socket)
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            socket.close()
            raise TransportError(f"cannot connect to {endpoint!r}: {error}") from error
        return socket


def _serve(control: zmq.Socket[bytes], answer: Callable[[bytes], bytes]) -> None:
    """Answer until the context is terminated; owns the socket."""
    try:
        while True:
            match control.recv_multipart():
                case [reader, request_id, payload]:
                    reply = answer(payload)
                    control.send_multipart((reader, request_id, reply), zmq.NOBLOCK)
                case parts:
                    logger.debug("foreign request skipped", extra={"num_parts": len(parts)})
    except zmq.ContextTerminated:
        pass
    except Exception:
        logger.exception("no control request will be answered any more")
    finally:
        control.close()


def check_is_near(endpoint: str) -> None:
    """Refuse to believe what arrives in clear from another machine.

    Raises:
        TransportError: `endpoint` is not on loopback.
    """
    host = urlsplit(endpoint).hostname
    if host is not None and not is_loopback(host):
        raise TransportError(
            f"refusing to read {endpoint} without CURVE keys: anybody could pretend to publish there"
        )
