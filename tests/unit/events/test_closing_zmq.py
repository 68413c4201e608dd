"""Publishers over ZMQ close in time, whatever their readers do meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing

import pytest
import zmq

from shepherd_events.foreign.msgpack_endpoint import MsgpackEndpoint
from shepherd_events.foreign.msgpack_publisher import MsgpackPublisher
from shepherd_events.transports.zmq import ZmqPublisherTransport

ROUNDS = 30
"""About one close in twenty hung where a socket's linger was set after it had begun to listen."""
DEADLINE_S = 10


def leave_unread(context: zmq.Context[zmq.Socket[bytes]], publisher: ZmqPublisherTransport) -> None:
    """A reader comes, is sent more than fits anywhere, reads one frame and leaves."""
    endpoints = publisher.bind(lambda request: request)
    with context.socket(zmq.SUB) as reader:
        reader.linger = 0
        reader.subscribe(b"")
        reader.connect(endpoints.live)
        while not reader.poll(5):
            publisher.send("topic", b"probe")
        for _ in range(3000):
            publisher.send("topic", bytes(20_000))
        reader.recv_multipart()


def ends(close: Callable[[], None]) -> bool:
    """Whether closing comes to its end; in a thread, since a hang cannot be interrupted."""
    thread = threading.Thread(target=close, daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    return not thread.is_alive()


def test_a_reader_that_leaves_with_frames_unread_does_not_keep_the_publisher_from_closing() -> None:
    with zmq.Context() as context:
        for _ in range(ROUNDS):
            publisher = ZmqPublisherTransport()
            leave_unread(context, publisher)
            assert ends(publisher.close)


def test_every_listening_socket_has_its_linger_before_it_listens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lingers = []
    bind = zmq.Socket.bind

    def listen(socket: zmq.Socket[bytes], address: str) -> object:
        lingers.append(socket.linger)
        return bind(socket, address)

    monkeypatch.setattr(zmq.Socket, "bind", listen)
    with closing(ZmqPublisherTransport()) as publisher:
        publisher.bind(lambda request: request)
    with closing(MsgpackPublisher(MsgpackEndpoint.parse("vllm://127.0.0.1:0?replay=0"))) as foreign:
        foreign.start()

    assert len(lingers) == 4
    assert all(0 <= linger <= 500 for linger in lingers)
