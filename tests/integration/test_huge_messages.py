"""Who holds a publisher's port can make a reader take no more memory than a frame may have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from shepherd_events.codec import MAX_FRAME_BYTES
from shepherd_events.events import StreamAddress, StreamId
from shepherd_events.transports.zmq import ZmqSubscriberTransport

HUGE_BYTES = 100 << 20
STREAM = StreamId("w", 0)
_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
_READY = b"\x05READY" + b"\x0bSocket-Type" + b"\x00\x00\x00\x03PUB"


class Liar:
    """Announces a huge message to whoever connects, and waits for what becomes of it."""

    def __init__(self) -> None:
        self.refused: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_GREETING + bytes([4, len(_READY)]) + _READY)
        await reader.readexactly(len(_GREETING))
        writer.write(b"\x02" + HUGE_BYTES.to_bytes(8, "big"))
        with suppress(ConnectionResetError):
            while await reader.read(4096):
                pass
        writer.close()
        self.refused.set_result(True)


async def test_a_message_of_a_hundred_megabytes_is_refused_before_memory_is_taken_for_it(
    record_property: Callable[[str, Any], None],
) -> None:
    """Its length alone ends the connection: no byte of it was ever sent."""
    liar = Liar()
    server = await asyncio.start_server(liar, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    live = f"tcp://127.0.0.1:{port}"
    address = StreamAddress(STREAM, 1, "zmq", live, "tcp://127.0.0.1:9")
    transport = ZmqSubscriberTransport(address, ping_s=60)  # nor does silence end it
    receiving = asyncio.ensure_future(transport.receive())
    async with asyncio.timeout(10):
        assert await liar.refused
    record_property("injected", f"{HUGE_BYTES} bytes announced, {MAX_FRAME_BYTES} allowed")

    assert not receiving.done()
    receiving.cancel()
    await transport.close()
    server.close()
