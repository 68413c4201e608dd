"""Records move between two services; whatever goes wrong ends the lease and is counted."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import stat
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine_calls import until
from shepherd_worker.engine.embedded.shared_memory import SharedMemory, map_readonly
from shepherd_worker.engine.embedded.transfer import shm
from shepherd_worker.engine.embedded.transfer.blocks import BlockSource
from shepherd_worker.engine.embedded.transfer.frames import Kind, Request, encode_header
from shepherd_worker.engine.embedded.transfer.handshake import read_secret
from shepherd_worker.engine.embedded.transfer.service import (
    TransferMode,
    TransferOptions,
    TransferService,
)
from shepherd_worker.engine.protocol import Ticket
from shepherd_worker.errors import UnusableInputError

FINGERPRINT = b"m" * 32
BLOCK_BYTES, NUM_BLOCKS = 300_000, 40
SECRET = b"a secret of both sides"
WAYS = ("shm", "shm copy", "tcp")


def record(block_id: int) -> bytes:
    return random.Random(block_id).randbytes(BLOCK_BYTES)


class Blocks:
    """Blocks that count how often they were let go."""

    def __init__(self) -> None:
        self.storage = SharedMemory.allocate(NUM_BLOCKS * BLOCK_BYTES, "test-kv")
        for block_id in range(NUM_BLOCKS):
            at = block_id * BLOCK_BYTES
            self.storage.memory[at : at + BLOCK_BYTES] = record(block_id)
        self.num_released = 0

    def source(self, *block_ids: int, shared: bool = True) -> BlockSource:
        storage = self.storage if shared else None
        return BlockSource(FINGERPRINT, BLOCK_BYTES, block_ids, storage, self.read)

    def read(self, block_ids: Any) -> list[bytes]:
        return [record(block_id) for block_id in block_ids]

    def release(self) -> None:
        self.num_released += 1


@asynccontextmanager
async def service(
    storage: SharedMemory | None = None, **options: Any
) -> AsyncIterator[TransferService]:
    made = TransferService(TransferOptions(**options), released=lambda: None)
    try:
        await made.start(storage)
        yield made
    finally:
        await made.close()


def only(ticket: Ticket, scheme: str) -> Ticket:
    return replace(ticket, addresses=tuple(a for a in ticket.addresses if a.startswith(scheme)))


async def fetch(client: TransferService, ticket: Ticket, first: int = 0, count: int = 0) -> Any:
    return await client.fetch(
        ticket,
        first,
        count or ticket.num_records - first,
        fingerprint=FINGERPRINT,
        record_bytes=BLOCK_BYTES,
    )


@pytest.fixture
def blocks() -> Blocks:
    return Blocks()


@pytest.mark.parametrize("way", WAYS)
async def test_records_arrive_as_they_were_and_the_lease_ends(way: str, blocks: Blocks) -> None:
    async with service(blocks.storage) as server, service() as client:
        source = blocks.source(7, 3, 5, 30, shared=way != "shm copy")
        ticket = server.lease(source, blocks.release)
        assert server.stats().leases == 1
        records = await fetch(client, only(ticket, way[:3]), 1, 3)
        await until(lambda: server.stats().leases == 0)

        assert [bytes(r) for r in records] == [record(3), record(5), record(30)]
        assert blocks.num_released == 1
        stats = client.stats()
        assert stats.fetched_total == {"shm": int(way != "tcp"), "tcp": int(way == "tcp")}
        assert stats.bytes_received_total == server.stats().bytes_sent_total == 3 * BLOCK_BYTES
        assert (stats.failures_total, server.stats().broken_off_total) == (0, 0)


@pytest.mark.parametrize("way", WAYS)
async def test_a_lease_can_be_fetched_once(way: str, blocks: Blocks) -> None:
    async with service(blocks.storage) as server, service() as client:
        source = blocks.source(7, shared=way != "shm copy")
        ticket = only(server.lease(source, blocks.release), way[:3])
        both = await asyncio.gather(fetch(client, ticket), fetch(client, ticket))

        assert sorted(records is None for records in both) == [False, True]
        assert client.stats().failures_total == 1
        assert client.stats().faults_total[way[:3]] == 1
        assert blocks.num_released == 1


async def test_the_fastest_way_that_both_have_is_taken(blocks: Blocks) -> None:
    async with service(blocks.storage) as server, service() as client, service(mode="tcp") as far:
        assert [a.partition(":")[0] for a in server.addresses] == ["shm", "tcp"]
        assert await fetch(client, server.lease(blocks.source(1), blocks.release))
        assert await fetch(far, server.lease(blocks.source(1), blocks.release))

        assert client.stats().fetched_total == {"shm": 1, "tcp": 0}
        assert far.stats().fetched_total == {"tcp": 1}


async def test_a_way_that_fails_gives_way_to_the_next_one(blocks: Blocks) -> None:
    async with service(blocks.storage) as server, service() as client:
        ticket = server.lease(blocks.source(1, 2), blocks.release)
        gone = ticket.addresses[0].replace("kv-", "kv-gone-")
        records = await fetch(client, replace(ticket, addresses=(gone, *ticket.addresses[1:])))

        assert [bytes(r) for r in records] == [record(1), record(2)]
        assert client.stats().fetched_total == {"shm": 0, "tcp": 1}
        assert client.stats().faults_total == {"shm": 1, "tcp": 0}
        assert client.stats().failures_total == 0


async def test_memory_of_another_host_is_not_tried(blocks: Blocks) -> None:
    async with service(blocks.storage) as server, service() as client:
        ticket = server.lease(blocks.source(1), blocks.release)
        foreign = ticket.addresses[0].replace(shm.host_identity(), "0" * 16)
        assert await fetch(client, replace(ticket, addresses=(foreign, ticket.addresses[1])))

        assert client.stats().faults_total == {"shm": 0, "tcp": 0}


async def test_a_server_of_one_mode_listens_on_nothing_else() -> None:
    modes: dict[TransferMode, list[str]] = {"shm": ["shm"], "tcp": ["tcp"], "auto": ["shm", "tcp"]}
    for mode, schemes in modes.items():
        async with service(mode=mode) as server:
            assert [a.partition(":")[0] for a in server.addresses] == schemes


async def test_any_bytes_travel_the_same_ways() -> None:
    async with service() as server, service() as client:
        parts = [os.urandom(3_000_000), b"", os.urandom(17)]
        for scheme in ("shm", "tcp"):
            ticket = only(server.lease_bytes(parts, FINGERPRINT), scheme)
            whole = await client.fetch_bytes(ticket, fingerprint=FINGERPRINT, max_bytes=4_000_000)

            assert whole is not None
            assert bytes(whole) == b"".join(parts)
        assert server.stats().leases == 0
        assert client.stats().failures_total == 0


async def test_bytes_of_another_kind_or_length_are_refused() -> None:
    async with service() as server, service() as client:
        ticket = server.lease_bytes([b"embedding"], FINGERPRINT)
        for told, most in ((b"x" * 32, 100), (FINGERPRINT, 8)):
            assert await client.fetch_bytes(ticket, fingerprint=told, max_bytes=most) is None

        assert client.stats().failures_total == 2
        assert client.stats().bytes_received_total == 0


async def test_32_transfers_at_once_all_come_through_in_little_memory(blocks: Blocks) -> None:
    async with service(blocks.storage) as server, service() as client:
        for scheme in ("shm", "tcp"):
            tickets = [
                only(server.lease(blocks.source(i, i + 1), blocks.release), scheme)
                for i in range(32)
            ]
            fetched = await asyncio.gather(*(fetch(client, ticket) for ticket in tickets))
            for i, records in enumerate(fetched):
                assert [bytes(r) for r in records] == [record(i), record(i + 1)]
        await until(lambda: blocks.num_released == 64)

        assert client.stats().failures_total == 0


async def connect(server: TransferService) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = server.addresses[-1].removeprefix("tcp://").rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def test_clients_that_drip_or_say_nothing_starve_nobody_and_are_given_up(
    blocks: Blocks,
) -> None:
    async with service(blocks.storage, timeout_s=0.3) as server, service() as client:
        stuck = [await connect(server) for _ in range(40)]
        for _, writer in stuck[::2]:
            writer.write(b"SKV2")
        ticket = only(server.lease(blocks.source(4), blocks.release), "tcp")
        assert [bytes(r) for r in await fetch(client, ticket)] == [record(4)]

        for reader, writer in stuck:
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()


async def request(
    server: TransferService, ticket: Ticket, count: int, fingerprint: bytes = FINGERPRINT
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """What a client begins with."""
    reader, writer = await connect(server)
    body = Request(bytes.fromhex(ticket.transfer_id), 0, count).encode()
    writer.write(encode_header(Kind.REQUEST, fingerprint, [body]) + body)
    return reader, writer


async def test_a_client_that_stops_reading_loses_the_lease(blocks: Blocks) -> None:
    async with service(blocks.storage, timeout_s=0.2) as server:
        source = blocks.source(*range(NUM_BLOCKS))
        ticket = server.lease(source, blocks.release)
        reader, writer = await request(server, ticket, NUM_BLOCKS)
        await reader.readexactly(100)
        await until(lambda: server.stats().broken_off_total == 1)

        assert (server.stats().leases, blocks.num_released) == (0, 1)
        writer.close()


async def test_a_client_that_hangs_up_in_the_middle_ends_the_lease(blocks: Blocks) -> None:
    async with service(blocks.storage) as server:
        ticket = server.lease(blocks.source(*range(NUM_BLOCKS)), blocks.release)
        reader, writer = await request(server, ticket, NUM_BLOCKS)
        await reader.readexactly(100)
        writer.transport.abort()
        await until(lambda: server.stats().broken_off_total == 1)

        assert (server.stats().leases, blocks.num_released) == (0, 1)


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
        assert (server.stats().broken_off_total, blocks.num_released) == (1, 1)
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


def frame(body: bytes, fingerprint: bytes = FINGERPRINT, kind: Kind = Kind.RECORDS) -> bytes:
    return encode_header(kind, fingerprint, [body]) + body


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

        assert await reader.read() == b""
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


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def socket_of(server: TransferService) -> Path:
    return Path("/" + server.addresses[0].removeprefix("shm://").partition("/")[2])


def exists(path: Path) -> bool:
    return path.exists()


def open_to_all(path: Path, mode: int) -> None:
    path.chmod(mode)


async def test_nothing_is_left_when_all_is_done() -> None:
    before = open_files()
    for _ in range(3):
        blocks = Blocks()
        async with service(blocks.storage) as server, service() as client:
            for way in WAYS:
                source = blocks.source(1, 2, shared=way != "shm copy")
                ticket = only(server.lease(source, blocks.release), way[:3])
                assert await fetch(client, ticket)
            server.lease(blocks.source(1), blocks.release)
            path = socket_of(server)
            assert exists(path)
        assert not exists(path)
        del blocks, source, server, client

    assert [t for t in threading.enumerate() if t.name == "shepherd-transfer"] == []
    gc.collect()
    assert open_files() <= before


def test_the_socket_of_a_process_that_was_killed_is_removed(tmp_path: Path) -> None:
    dead, path, _ = shm.bind_unix(tmp_path)
    dead.close()
    assert path.exists()
    living, other, _ = shm.bind_unix(tmp_path)
    third, _, _ = shm.bind_unix(tmp_path)

    assert not path.exists()
    assert other.exists()
    living.close()
    third.close()


def test_the_directory_of_the_sockets_is_ours_alone() -> None:
    assert stat.S_IMODE(shm.socket_directory().stat().st_mode) == 0o700


def test_a_socket_directory_that_others_may_enter_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    directory = tmp_path / f"shepherd-{os.getuid()}"
    directory.mkdir()
    directory.chmod(0o755)

    with pytest.raises(PermissionError, match="mode 700"):
        shm.socket_directory()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
async def test_another_user_cannot_look_into_the_memory(tmp_path: Path, blocks: Blocks) -> None:
    """Even one who reaches the socket, past its directory."""
    for directory in (tmp_path, *list(tmp_path.parents)[:2]):
        open_to_all(directory, 0o755)
    async with service(blocks.storage) as server:
        reachable = tmp_path / "socket"
        os.link(socket_of(server), reachable)
        open_to_all(reachable, 0o777)
        attach = encode_header(Kind.ATTACH, FINGERPRINT, []).hex()
        code = (
            "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
            f"s.sendall(bytes.fromhex('{attach}')); print(s.recv(1))"
        )
        done = await asyncio.to_thread(
            subprocess.run,
            ["/usr/bin/env", "python3", "-c", code, str(reachable)],
            user=65534,
            capture_output=True,
            text=True,
            check=False,
        )

        assert done.stdout in {"b''\n", ""}
        assert "PermissionError" not in done.stderr


def test_lent_memory_can_neither_be_written_nor_shrunk(blocks: Blocks) -> None:
    view = map_readonly(blocks.storage.fd)

    assert view.readonly
    with pytest.raises(PermissionError):
        os.ftruncate(blocks.storage.fd, 1)
    with pytest.raises(PermissionError):
        os.pwrite(blocks.storage.fd, b"x", 0)
    loose = os.memfd_create("loose")
    os.ftruncate(loose, 10)
    with pytest.raises(OSError, match="sealed"):
        map_readonly(loose)
    os.close(loose)


async def test_both_sides_prove_the_secret(blocks: Blocks) -> None:
    async with (
        service(blocks.storage, mode="tcp", secret=SECRET) as server,
        service(mode="tcp", secret=SECRET) as friend,
        service(mode="tcp", secret=b"another secret, as long") as stranger,
        service(mode="tcp", timeout_s=1.0) as nobody,
    ):
        ticket = server.lease(blocks.source(6), blocks.release)
        assert await fetch(stranger, ticket) is None
        assert await fetch(nobody, ticket) is None
        assert blocks.num_released == 0
        assert [bytes(r) for r in await fetch(friend, ticket)] == [record(6)]


async def test_a_server_that_does_not_know_the_secret_is_not_believed(blocks: Blocks) -> None:
    async with (
        service(blocks.storage, mode="tcp") as server,
        service(mode="tcp", secret=SECRET, timeout_s=1.0) as client,
    ):
        assert await fetch(client, server.lease(blocks.source(6), blocks.release)) is None


async def test_a_proof_cannot_be_played_back(blocks: Blocks) -> None:
    async with service(blocks.storage, mode="tcp", secret=SECRET, timeout_s=0.5) as server:
        hello, proof = (
            frame(b"n" * 32, bytes(32), Kind.HELLO),
            frame(b"p" * 32, bytes(32), Kind.PROOF),
        )
        challenges = set()
        for _ in range(3):
            reader, writer = await connect(server)
            writer.write(hello)
            challenges.add(await reader.readexactly(52 + 32))
            writer.write(proof)
            assert await reader.read() == b""
            writer.close()

        assert len(challenges) == 3


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
async def test_nothing_beyond_loopback_is_listened_on_without_a_secret(host: str) -> None:
    with pytest.raises(UnusableInputError, match="transfer-host"):
        async with service(host=host):
            pass


def test_a_secret_is_read_from_a_file_that_nobody_else_may_use(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    with pytest.raises(UnusableInputError, match="cannot be read"):
        read_secret(file)
    file.write_text(" 0123456789abcdef\n")
    file.chmod(0o640)
    with pytest.raises(UnusableInputError, match="mode 640"):
        read_secret(file)
    file.chmod(0o600)
    assert read_secret(file) == b"0123456789abcdef"
    file.write_text("short")
    with pytest.raises(UnusableInputError, match="5 bytes: expected at least 16"):
        read_secret(file)


async def test_more_connections_than_may_be_are_closed_at_once(blocks: Blocks) -> None:
    async with service(blocks.storage, max_connections=2) as server:
        held = [await connect(server) for _ in range(2)]
        reader, writer = await connect(server)

        assert await asyncio.wait_for(reader.read(), 5) == b""
        for _, other in (*held, (reader, writer)):
            other.close()
