"""Who may fetch, and what a stranger finds."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
from pathlib import Path

import pytest

from open_directory import open_directory
from shepherd_worker.engine.embedded.model.shared_memory import map_readonly
from shepherd_worker.engine.embedded.transfer import shm
from shepherd_worker.engine.embedded.transfer.frames import Kind, encode_header
from shepherd_worker.engine.embedded.transfer.handshake import read_secret
from shepherd_worker.errors import UnusableInputError
from transfer_calls import (
    FINGERPRINT,
    Blocks,
    connect,
    fetch,
    frame,
    open_to_all,
    record,
    service,
    socket_of,
)

SECRET = b"a secret of both sides"


@pytest.fixture
def blocks() -> Blocks:
    return Blocks()


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
async def test_another_user_cannot_look_into_the_memory(blocks: Blocks) -> None:
    """Even one who reaches the socket, past its directory."""
    with open_directory() as directory:
        async with service(blocks.storage) as server:
            reachable = directory / "socket"
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
    with pytest.raises(UnusableInputError, match=r"is not loopback: .* needs a credential"):
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
