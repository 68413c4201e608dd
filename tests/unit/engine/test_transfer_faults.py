"""Whatever goes wrong in a transfer ends the lease and is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from engine_calls import until
from shepherd_worker.engine.embedded.transfer.frames import Kind, Request, encode_header
from shepherd_worker.engine.embedded.transfer.service import (
    TransferService,
)
from shepherd_worker.engine.protocol import Ticket
from transfer_calls import (
    BLOCK_BYTES,
    FINGERPRINT,
    NUM_BLOCKS,
    Blocks,
    connect,
    fetch,
    frame,
    only,
    record,
    request,
    service,
    socket_of,
)


@pytest.fixture
def blocks() -> Blocks:
    return Blocks()


async def given_up(reader: asyncio.StreamReader) -> bool:
    """Whether the other side ends the connection, in order or not, without another word."""
    try:
        return await asyncio.wait_for(reader.read(), 5) == b""
    except ConnectionError:
        return True


async def test_clients_that_drip_or_say_nothing_starve_nobody_and_are_given_up(
    blocks: Blocks,
) -> None:
    async with service(blocks.storage, timeout_s=0.3) as server, service() as client:
        stuck = [await connect(server) for _ in range(40)]
        for _, writer in stuck[::2]:
            writer.write(b"SKV2")
        ticket = only(server.lease(blocks.source(4), blocks.release), "tcp")
        assert [bytes(r) for r in await fetch(client, ticket)] == [record(4)]

        answers = await asyncio.gather(
            *(asyncio.wait_for(reader.read(), 5) for reader, _ in stuck), return_exceptions=True
        )
        for _, writer in stuck:
            writer.close()

    assert set(map(repr, answers)) <= {
        "b''",
        "ConnectionResetError(104, 'Connection reset by peer')",
    }


async def test_a_client_that_stops_reading_loses_the_lease(blocks: Blocks) -> None:
    async with service(blocks.storage, timeout_s=0.2) as server:
        source = blocks.source(*range(NUM_BLOCKS))
        ticket = server.lease(source, blocks.release)
        reader, writer = await request(server, ticket, NUM_BLOCKS)
        await reader.readexactly(100)
        await until(lambda: server.stats().broken_off_total == 1)

        await until(lambda: (server.stats().leases, blocks.num_released) == (0, 1))
        writer.close()


async def test_a_client_that_hangs_up_in_the_middle_ends_the_lease(blocks: Blocks) -> None:
    async with service(blocks.storage) as server:
        ticket = server.lease(blocks.source(*range(NUM_BLOCKS)), blocks.release)
        reader, writer = await request(server, ticket, NUM_BLOCKS)
        await reader.readexactly(100)
        writer.transport.abort()
        await until(lambda: server.stats().broken_off_total == 1)

        await until(lambda: (server.stats().leases, blocks.num_released) == (0, 1))


@pytest.mark.parametrize(
    ("count", "fingerprint", "words"),
    [(2, FINGERPRINT, b"1 records only"), (1, b"x" * 32, b"another kind or model")],
)
async def test_a_request_that_is_wrong_is_refused_with_a_reason_and_ends_the_lease(
    blocks: Blocks, count: int, fingerprint: bytes, words: bytes
) -> None:
    async with service(blocks.storage) as server:
        ticket = server.lease(blocks.source(4), blocks.release)
        reader, writer = await request(server, ticket, count, fingerprint)

        assert words in await reader.read()
        await until(lambda: (server.stats().broken_off_total, blocks.num_released) == (1, 1))
        writer.close()


async def pretend(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    client: TransferService,
) -> Any:
    """Fetch one record from somebody who is no server of ours."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        ticket = Ticket(
            addresses=(f"tcp://127.0.0.1:{port}",),
            transfer_id="ab" * 16,
            fingerprint=FINGERPRINT.hex(),
            record_bytes=BLOCK_BYTES,
            num_records=1,
        )
        return await asyncio.wait_for(fetch(client, ticket), 5)


ANSWERS: dict[str, bytes] = {
    "nothing": b"",
    "half a header": frame(record(1))[:30],
    "half a body": frame(record(1))[:1000],
    "a flipped bit": frame(record(1))[:-1] + b"?",
    "a short record": frame(record(1)[:-1]),
    "a long record": frame(record(1) + b"x"),
    "another model's": frame(record(1), b"x" * 32),
    "another frame": frame(b"", kind=Kind.RELEASED),
    "another protocol": b"HTTP/1.1 200 OK\r\n\r\n" * 10,
    "a refusal": frame(b"no", bytes(32), Kind.REFUSED),
}


@pytest.mark.parametrize("answer", ANSWERS)
async def test_a_server_that_answers_wrongly_is_given_up(answer: str) -> None:
    async def send(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ANSWERS[answer])
        await writer.drain()

    async with service() as client:
        assert await pretend(send, client) is None
        assert client.stats().failures_total == 1
        assert client.stats().faults_total["tcp"] == 1


async def test_a_server_that_drips_is_given_up() -> None:
    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in frame(record(1)):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.05)

    async with service(timeout_s=0.2) as client:
        assert await pretend(drip, client) is None


async def test_a_lease_that_ends_while_it_is_copied_makes_the_copy_worthless(
    blocks: Blocks,
) -> None:
    """The server gives up a slow client; what the client copied may have been overwritten."""
    async with service(blocks.storage, timeout_s=0.1) as server:
        ticket = server.lease(blocks.source(4), blocks.release)
        reader, writer = await asyncio.open_unix_connection(socket_of(server))
        body = Request(bytes.fromhex(ticket.transfer_id), 0, 1).encode()
        writer.write(encode_header(Kind.CLAIM, FINGERPRINT, [body]) + body)
        extents = await reader.readexactly(52 + 8)
        assert extents[52:] == (4 * BLOCK_BYTES).to_bytes(8, "little")
        await until(lambda: blocks.num_released == 1)
        writer.write(encode_header(Kind.DONE, FINGERPRINT, []))

        assert await given_up(reader)
        writer.close()


async def test_a_service_that_closes_breaks_off_and_releases_everything(blocks: Blocks) -> None:
    async with service() as client:
        async with service(blocks.storage) as server:
            waiting = server.lease(blocks.source(1), blocks.release)
            fetching = server.lease(blocks.source(*range(NUM_BLOCKS)), blocks.release)
            reader, writer = await request(server, fetching, NUM_BLOCKS)
            await reader.readexactly(100)

        assert blocks.num_released == 2
        assert await fetch(client, waiting) is None
        assert client.stats().failures_total == 1
        writer.close()


async def test_a_fetch_that_is_cancelled_leaves_nothing_behind(blocks: Blocks) -> None:
    silence = asyncio.Event()

    async def wait(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        await silence.wait()

    async with service() as client:
        fetching = asyncio.create_task(pretend(wait, client))
        await asyncio.sleep(0.05)
        fetching.cancel()
        silence.set()
        with pytest.raises(asyncio.CancelledError):
            await fetching
        await until(lambda: client.bytes_staged == 0)


async def test_closing_while_a_fetch_runs_ends_it(blocks: Blocks) -> None:
    silence = asyncio.Event()

    async def wait(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        await silence.wait()

    async with service() as client:
        fetching = asyncio.create_task(pretend(wait, client))
        await asyncio.sleep(0.05)
        await client.close()
        await asyncio.sleep(0.05)
        silence.set()

        assert await fetching is None
        assert client.stats().failures_total == 1


async def test_more_connections_than_may_be_are_closed_at_once(blocks: Blocks) -> None:
    async with service(blocks.storage, max_connections=2) as server:
        held = [await connect(server) for _ in range(2)]
        reader, writer = await connect(server)

        assert await asyncio.wait_for(reader.read(), 5) == b""
        for _, other in (*held, (reader, writer)):
            other.close()
