"""Transfers between real processes that are killed, and between hosts whose link is cut."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tiny_models import tiny_model
from transfer_process import NUM_RECORDS, record

SCRIPT = Path(__file__).parent.parent / "transfer_process.py"
COMPONENTS = SCRIPT.parent.parent / "components"
WHOLE = hashlib.sha256(b"".join(record(i) for i in range(NUM_RECORDS))).hexdigest()
PROMPT = list(range(10, 71))


@dataclass(frozen=True)
class Peer:
    """One side of a transfer, in a process of its own."""

    process: asyncio.subprocess.Process

    async def hear(self) -> Any:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), 60)
        return json.loads(line)

    def tell(self, message: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")

    async def ask(self, message: Any) -> Any:
        self.tell(message)
        return await self.hear()

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def until(self, **expected: Any) -> dict[str, Any]:
        """The server's counters, once they are as expected."""
        async with asyncio.timeout(10):
            while True:
                stats: dict[str, Any] = await self.ask("stats")
                if all(stats[name] == value for name, value in expected.items()):
                    return stats
                await asyncio.sleep(0.02)


@asynccontextmanager
async def peer(*args: str, namespace: str = "") -> AsyncIterator[Peer]:
    inside = ("ip", "netns", "exec", namespace) if namespace else ()
    process = await asyncio.create_subprocess_exec(
        *inside,
        sys.executable,
        str(SCRIPT),
        *args,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(COMPONENTS), "OMP_NUM_THREADS": "1"},
    )
    try:
        yield Peer(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("mode", ["tcp", "shm"])
async def test_a_prefill_worker_that_is_killed_in_the_middle_is_a_failed_fetch(mode: str) -> None:
    async with peer("serve", mode, "127.0.0.1") as server, peer("fetch", mode) as client:
        ticket = await server.hear()
        assert await client.hear() == "ready"
        client.tell(ticket)
        assert await server.hear() == "paused"
        await server.kill()
        fetched = await client.hear()

        assert fetched["digest"] is None
        assert fetched["failures_total"] == fetched["faults_total"][mode] == 1


@pytest.mark.parametrize("mode", ["tcp", "shm"])
async def test_a_decode_worker_that_is_killed_in_the_middle_loses_the_lease(mode: str) -> None:
    async with peer("serve", mode, "127.0.0.1") as server, peer("fetch", mode) as client:
        ticket = await server.hear()
        assert await client.hear() == "ready"
        client.tell(ticket)
        assert await server.hear() == "paused"
        await client.kill()
        server.tell("go")
        await server.until(leases=0, broken_off_total=1)


@pytest.mark.parametrize("mode", ["tcp", "shm"])
async def test_processes_that_live_move_everything(mode: str) -> None:
    async with peer("serve", mode, "127.0.0.1") as server, peer("fetch", mode) as client:
        ticket = await server.hear()
        assert await client.hear() == "ready"
        client.tell(ticket)
        assert await server.hear() == "paused"
        server.tell("go")
        fetched = await client.hear()

        assert fetched["digest"] == WHOLE
        assert fetched["fetched_total"] == {mode: 1}
        await server.until(leases=0, broken_off_total=0)


@dataclass(frozen=True)
class Hosts:
    """Two network namespaces with a link between them."""

    near: str
    far: str
    address: str
    """Of the far one."""

    def cut(self) -> None:
        ip("-n", self.far, "link", "set", "wire", "down")


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if shutil.which("ip") is None:
        assert os.environ.get("CI") != "true", "the tool ip is missing: apt-get install iproute2"
        pytest.skip("the tool ip is not installed")
    if os.getuid() != 0:
        pytest.skip("only root may make network namespaces")
    with _hosts() as made:
        yield made


@contextmanager
def _hosts() -> Iterator[Hosts]:
    tag = secrets.token_hex(3)
    near, far = f"near-{tag}", f"far-{tag}"
    try:
        for name, address in ((near, "192.0.2.1/24"), (far, "192.0.2.2/24")):
            ip("netns", "add", name)
            if name == near:
                ip("-n", near, "link", "add", "wire", "type", "veth", "peer", "name", "other")
            else:
                ip("-n", near, "link", "set", "other", "netns", far, "name", "wire")
            ip("-n", name, "addr", "add", address, "dev", "wire")
            ip("-n", name, "link", "set", "lo", "up")
        for name in (near, far):
            ip("-n", name, "link", "set", "wire", "up")
        yield Hosts(near, far, "192.0.2.2")
    finally:
        for name in (near, far):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.fixture
def secret(tmp_path: Path) -> str:
    file = tmp_path / "secret"
    file.write_text(secrets.token_hex(32))
    file.chmod(0o600)
    return str(file)


async def test_kv_from_another_host_gives_the_aggregated_roles_text(
    hosts: Hosts, secret: str
) -> None:
    model = str(tiny_model("qwen2"))
    async with (
        peer("engine", model, hosts.address, secret, namespace=hosts.far) as prefill,
        peer("engine", model, "127.0.0.1", secret, namespace=hosts.near) as decode,
    ):
        assert [await prefill.hear(), await decode.hear()] == ["ready", "ready"]
        aggregated = await prefill.ask({"prompt": PROMPT})
        first = await prefill.ask({"prompt": PROMPT, "prefill": True})
        fetched = await decode.ask({"prompt": PROMPT, **first})

        assert fetched["tokens"] == aggregated["tokens"]
        assert (fetched["transfers"]["tcp"], fetched["failures"]) == (1, 0)

        second = await prefill.ask({"prompt": PROMPT[::-1], "prefill": True})
        hosts.cut()
        aggregated = await prefill.ask({"prompt": PROMPT[::-1]})
        computed = await decode.ask({"prompt": PROMPT[::-1], **second})

        assert computed["tokens"] == aggregated["tokens"]
        assert (computed["transfers"]["tcp"], computed["failures"]) == (1, 1)


async def test_a_link_that_is_cut_in_the_middle_is_a_failure_of_both_sides(
    hosts: Hosts, secret: str
) -> None:
    async with (
        peer("serve", "tcp", hosts.address, secret, namespace=hosts.far) as server,
        peer("fetch", "tcp", secret, namespace=hosts.near) as client,
    ):
        ticket = await server.hear()
        assert await client.hear() == "ready"
        client.tell(ticket)
        assert await server.hear() == "paused"
        hosts.cut()
        server.tell("go")
        fetched = await client.hear()

        assert fetched["digest"] is None
        assert fetched["failures_total"] == 1
        await server.until(leases=0, broken_off_total=1)
