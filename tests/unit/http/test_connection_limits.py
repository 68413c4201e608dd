"""A connection that sends no end of headers or trailers is closed, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing, suppress

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from shepherd_http.limits import MAX_HEADER_BYTES, SizeLimit
from shepherd_http.server import listen, serve_http

Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]
PIECE = b"x-more: " + b"y" * 1000 + b"\r\n"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).body()
    await PlainTextResponse(str(len(body)))(scope, receive, send)


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    with closing(listen("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        app = SizeLimit(echo, max_bytes=1 << 20)
        serving = asyncio.ensure_future(serve_http(app, listener, lambda: None))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        yield reader, writer
        writer.close()
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving


async def send_until_refused(wire: Wire, piece: bytes) -> tuple[bytes, int]:
    """What is answered, and how much was taken before."""
    reader, writer = wire
    answer = asyncio.ensure_future(reader.read())
    taken = 0
    while not answer.done() and taken < 100 * MAX_HEADER_BYTES:
        writer.write(piece)
        taken += len(piece)
        with suppress(ConnectionError):
            await writer.drain()
        await asyncio.sleep(0)
    with suppress(ConnectionError):
        return await answer, taken
    return b"", taken


async def test_headers_without_end_are_refused_before_they_fill_the_memory(wire: Wire) -> None:
    wire[1].write(b"GET / HTTP/1.1\r\nhost: localhost\r\n")
    answer, taken = await send_until_refused(wire, PIECE)

    assert answer.startswith(b"HTTP/1.1 431 ") or not answer
    assert taken < 100 * MAX_HEADER_BYTES


async def test_one_header_without_end_is_refused(wire: Wire) -> None:
    wire[1].write(b"GET / HTTP/1.1\r\nhost: localhost\r\nx: ")
    answer, taken = await send_until_refused(wire, b"y" * 1000)

    assert answer.startswith(b"HTTP/1.1 431 ") or not answer
    assert taken < 100 * MAX_HEADER_BYTES


async def test_trailers_without_end_close_the_connection(wire: Wire) -> None:
    head = b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    wire[1].write(head + b"2\r\nab\r\n0\r\n")
    _, taken = await send_until_refused(wire, PIECE)

    assert taken < 100 * MAX_HEADER_BYTES


async def test_a_large_body_in_small_pieces_is_no_header(wire: Wire) -> None:
    reader, writer = wire
    size = 4 * MAX_HEADER_BYTES
    writer.write(b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % size)
    for _ in range(size // 1024):
        writer.write(b"z" * 1024)
        await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 200 ")
    assert await reader.readexactly(len(str(size))) == str(size).encode()


async def test_heads_in_pieces_are_put_together_and_connections_kept(wire: Wire) -> None:
    reader, writer = wire
    for _ in range(3):
        for byte in b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n":
            writer.write(bytes([byte]))
            await writer.drain()

        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert await reader.readexactly(1) == b"0"
