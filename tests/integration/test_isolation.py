"""Out of a network namespace, and the bytes that pass into it."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys

import pytest

from listeners import INTO_NAMESPACE as INTO
from listeners import why_no_namespace
from shepherd_cli.supervisor.forwarder import Forwarder


@pytest.mark.skipif(bool(why_no_namespace()), reason=why_no_namespace())
def test_a_program_in_it_sees_loopback_alone_and_is_who_it_was() -> None:
    look = "import os, socket; print(os.getuid(), [name for _, name in socket.if_nameindex()])"
    done = subprocess.run(
        [*INTO, sys.executable, "-c", look], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.split(" ", 1)[1] == "['lo']\n"


@pytest.mark.skipif(not shutil.which("unshare"), reason="unshare (util-linux) is not installed")
@pytest.mark.skipif(bool(why_no_namespace()), reason=why_no_namespace())
def test_where_the_kernel_refuses_it_says_why_and_what_to_do() -> None:
    limit = "/proc/sys/user/max_user_namespaces"
    forbidden = f"echo 0 > {limit}; exec {' '.join(INTO)} true"
    done = subprocess.run(
        ["unshare", "-r", "sh", "-c", forbidden], capture_output=True, text=True, check=False
    )

    assert done.returncode == 3
    assert "--isolate: no network namespace: No space left on device" in done.stderr
    assert f"{limit} is 0" in done.stderr
    assert "--broker nats" in done.stderr


async def test_bytes_pass_both_ways_and_an_end_is_passed_on() -> None:
    """Outside and inside are two addresses here; in one namespace they could not be one port."""

    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())
        writer.close()

    outside = socket.create_server(("127.0.0.2", 0))
    port = outside.getsockname()[1]
    async with Forwarder([outside]), await asyncio.start_server(shout, "127.0.0.1", port):
        reader, writer = await asyncio.open_connection("127.0.0.2", port)
        sent = b"word " * 100_000
        writer.write(sent)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()

    assert answer == sent.upper()


async def test_where_nobody_listens_inside_the_connection_is_closed() -> None:
    outside = socket.create_server(("127.0.0.2", 0))
    port = outside.getsockname()[1]
    async with Forwarder([outside]):
        reader, writer = await asyncio.open_connection("127.0.0.2", port)

        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_an_open_connection_ends_with_the_forwarder() -> None:
    accepted = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        await reader.read()
        writer.close()

    outside = socket.create_server(("127.0.0.2", 0))
    port = outside.getsockname()[1]
    async with await asyncio.start_server(listen, "127.0.0.1", port):
        async with Forwarder([outside]):
            reader, writer = await asyncio.open_connection("127.0.0.2", port)
            await accepted.wait()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
