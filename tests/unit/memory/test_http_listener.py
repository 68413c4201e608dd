"""What every HTTP door listens with."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from shepherd_http.server import listen


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_connection_sends_without_waiting_for_an_acknowledgement(host: str) -> None:
    try:
        listener = listen(host, 0)
    except OSError as error:
        pytest.skip(f"{host} is no address of this machine: {error}")
    with closing(listener), socket.create_connection(listener.getsockname()[:2]):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
