"""A foreign publisher over ZeroMQ: SUB for what it sends, DEALER for what it repeats.

    live     [topic, seq, payload]
    replay   asked with ["", first seq]
             answered with ["", topic, seq, payload] ..., ["", "", -1, ""];
             older publishers leave the topic out

The publisher's wire knows no keys: whoever can reach the address can pretend.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from shepherd_events.errors import NoAnswerError, TransportError
from shepherd_events.foreign.msgpack_form import MAX_PAYLOAD_BYTES
from shepherd_events.foreign.source import Connected, Disconnected, Message, SourceEvent

_END = b"\xff" * 8
_HWM_MESSAGES = 20_000
"""What waits while the bridge is busy; more is dropped and found missing."""
_RECONNECT_MS = 50
_RECONNECT_MAX_MS = 2000


class ZmqForeignSource:
    """See `ForeignSource`."""

    def __init__(
        self, live: str, replay: str = "", *, topic: str = "", answer_timeout_s: float = 2.0
    ) -> None:
        """Raises TransportError where an address cannot be connected to."""
        self._live_endpoint = live
        self._replay_endpoint = replay
        self._answer_timeout_s = answer_timeout_s
        self._context = zmq.asyncio.Context()
        self._live = self._context.socket(zmq.SUB)
        self._live.set_hwm(_HWM_MESSAGES)
        self._live.subscribe(topic)
        self._monitor = self._live.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        self._poller = zmq.asyncio.Poller()
        self._poller.register(self._live, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        self._num_foreign = 0
        try:
            _connect(self._live, live)
        except TransportError:
            self._context.destroy(linger=0)
            raise

    @property
    def can_replay(self) -> bool:
        """Whether an endpoint was named."""
        return bool(self._replay_endpoint)

    @property
    def num_foreign(self) -> int:
        """Messages of other parts than topic, number and payload."""
        return self._num_foreign

    async def next(self, timeout_s: float) -> SourceEvent | None:
        """See `ForeignSource`."""
        ready = dict(await self._poller.poll(round(max(0.0, timeout_s) * 1000)))
        if self._monitor in ready:
            event = parse_monitor_message(await self._monitor.recv_multipart())["event"]
            if event != zmq.EVENT_DISCONNECTED:
                return Connected()
            self._renew()
            return Disconnected()
        if self._live in ready:
            match await self._live.recv_multipart():
                case [_, seq, payload] if len(seq) == 8:
                    return Message(int.from_bytes(seq, "big"), payload)
                case _:
                    self._num_foreign += 1
        return None

    async def replay(self, first: int) -> AsyncGenerator[Message, None]:
        """See `ForeignSource`; every replay has a connection of its own."""
        asking = self._context.socket(zmq.DEALER)
        asking.set_hwm(0)  # what the publisher has no room to send, it drops
        try:
            _connect(asking, self._replay_endpoint)
            await asking.send_multipart((b"", first.to_bytes(8, "big")))
            while True:
                match await self._answer(asking):
                    case [b"", *_, seq, _] if seq == _END:
                        return
                    case [b"", *_, seq, payload] if len(seq) == 8:
                        yield Message(int.from_bytes(seq, "big"), payload)
                        await asyncio.sleep(0)  # what has arrived is received without a pause
                    case _:
                        self._num_foreign += 1
        finally:
            asking.close(linger=0)

    async def close(self) -> None:
        """Disconnect at once."""
        self._context.destroy(linger=0)

    def _renew(self) -> None:
        """Connect anew: libzmq does not, where a message was larger than the limit."""
        self._live.disconnect(self._live_endpoint)
        _connect(self._live, self._live_endpoint)

    async def _answer(self, asking: zmq.asyncio.Socket) -> list[bytes]:
        try:
            async with asyncio.timeout(self._answer_timeout_s):
                return await asking.recv_multipart()
        except TimeoutError:
            raise NoAnswerError(self._replay_endpoint, self._answer_timeout_s) from None


def _connect(socket: zmq.asyncio.Socket, endpoint: str) -> None:
    socket.linger = 0
    socket.maxmsgsize = MAX_PAYLOAD_BYTES
    socket.reconnect_ivl = _RECONNECT_MS
    socket.reconnect_ivl_max = _RECONNECT_MAX_MS
    socket.ipv6 = "[" in endpoint
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        raise TransportError(f"cannot connect to {endpoint!r}: {error}") from error
