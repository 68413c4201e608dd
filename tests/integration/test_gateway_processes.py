"""The gateway's process: credentials at its door, killed in mid-stream, drained, with idle clients.

Before it stand a frontend and a memory that do what they are told, over real HTTP.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from jwt.algorithms import HMACAlgorithm

from gateway_house import asked
from gateway_process import Outside, outside
from openai_client import eventually
from shepherd_auth.tenant_salts import TenantSalts
from shepherd_cli.process import ChildProcess
from shepherd_cli.stack import Service, free_port
from shepherd_gateway.fake import Said

KEY = bytes(range(32))
ISSUER, AUDIENCE = "https://id.example", "shepherd"
ONE = {"role": "user", "content": "one?"}
ONE_ANSWERED = {"role": "assistant", "content": "1"}
TWO = {"role": "user", "content": "two?"}
TALK = [ONE, ONE_ANSWERED, TWO]
NUM_IDLE = 1000
SPARE_FILES = 200


@pytest.fixture
async def out(tmp_path: Path) -> AsyncIterator[Outside]:
    async with outside(tmp_path) as opened:
        yield opened


def private(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def token(**changes: Any) -> str:
    said = {"iss": ISSUER, "aud": AUDIENCE, "exp": int(time.time()) + 300, "sub": "ann"}
    said |= {"tenant": "acme", "scope": "read write"}
    given = {name: value for name, value in (said | changes).items() if value is not None}
    return jwt.encode(given, KEY, "HS256", headers={"kid": "h"})


async def test_a_tokens_claim_is_the_tenant_and_every_other_token_stays_outside(
    out: Outside, tmp_path: Path
) -> None:
    key = HMACAlgorithm.to_jwk(KEY, as_dict=True) | {"kid": "h"}
    options = (
        *("--jwks-file", private(tmp_path / "jwks.json", json.dumps({"keys": [key]}))),
        *("--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE),
        *("--tenant-salt-file", private(tmp_path / "salt", "ab" * 32)),
        *("--memory-key-file", private(tmp_path / "memory-key", "secret")),
    )
    refused = {
        "expired": token(exp=1),
        "another issuer": token(iss="https://evil.example"),
        "another audience": token(aud="another-service"),
        "no tenant": token(tenant=None),
        "any tenant": token(tenant="*"),
        "another key": jwt.encode({"tenant": "acme"}, b"x" * 32, "HS256", headers={"kid": "h"}),
        "no token": "",
    }
    out.memory.evict("s", out.memory.hear("s", ("user", "one?"), tenant="other"), tenant="other")
    async with out.gateway(*options) as gateway:
        for why, shown in refused.items():
            sent = {"authorization": f"Bearer {shown}", "x-shepherd-tenant": "acme"}
            status, answer, _ = await out.chat(gateway, TALK, **sent)
            assert (status, answer["error"]["type"]) == (401, "authentication_error"), why
        assert out.frontend.asked == []
        scoped = {"authorization": f"Bearer {token(scope='read')}"}
        assert (await out.chat(gateway, TALK, **scoped))[0] == 403
        for tenant in ("acme", "other"):
            sent = {"authorization": f"Bearer {token(tenant=tenant)}"}
            status, _, told = await out.chat(gateway, TALK, **sent)
            assert status == 200
            assert told["x-shepherd-notices"] == ("1" if tenant == "other" else "0")

    salts = TenantSalts(bytes.fromhex("ab" * 32))
    assert [body["cache_salt"] for body in out.frontend.asked] == [
        salts.salt_of("acme"),
        salts.salt_of("other"),
    ]


async def test_after_a_kill_in_mid_stream_a_new_process_sends_the_same_beginning(
    out: Outside,
) -> None:
    first = out.memory.hear("s", ("user", "one?"), ("assistant", "1"))
    out.memory.evict("s", first)
    port = free_port()
    async with out.gateway(port=port) as gateway:
        await out.chat(gateway, TALK)
        out.memory.hear("s", ("user", "two?"), ("assistant", "Hello there."))
        out.frontend.model = lambda _: Said(("a", "b"), pause=asyncio.Event())
        body = {"model": "fake", "messages": TALK, "stream": True}
        url = f"{gateway.url}/v1/chat/completions"
        async with out.http.post(url, json=body, headers={"x-session-id": "s"}) as answer:
            assert b'"a"' in await answer.content.readany()
            gateway.process.kill()
            with pytest.raises(aiohttp.ClientError):
                await answer.read()
        await asyncio.wait_for(out.frontend.left.wait(), 10)
    out.frontend.model = lambda _: Said(("Hello", " there."))
    later = [*TALK, {"role": "assistant", "content": "Hello there."}, {**ONE, "content": "three?"}]
    async with out.gateway(port=port) as gateway:
        status, _, told = await out.chat(gateway, later)

    assert (status, told["x-shepherd-memory"]) == (200, "ok")
    before, *_, after = (body["messages"] for body in out.frontend.asked)
    assert [message["role"] for message in before] == ["tool", "user"]
    assert after == [*before, *later[3:]]


async def start_memory(directory: Path, port: int) -> Service:
    environment = dict(os.environ) | {"DYN_DISCOVERY_BACKEND": "file"}
    environment["DYN_FILE_KV"] = str(directory / "discovery")
    where = ("--http-port", str(port), "--admin-port", str(free_port()))
    argv = [sys.executable, "-m", "shepherd_memory", *where, "--data-dir", str(directory / "data")]
    child = await ChildProcess.start("memory", argv, environment, directory / "memory.log")
    return Service(child, f"http://127.0.0.1:{port}")


async def test_a_memory_killed_in_mid_recall_costs_the_recall_and_comes_back_with_its_notice(
    out: Outside, tmp_path: Path
) -> None:
    memory = await start_memory(tmp_path, free_port())
    port = int(memory.url.rpartition(":")[2])

    async def lives() -> bool:
        try:
            async with out.http.get(f"{memory.url}/live") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    await memory.process.until(lives, timeout_s=60)
    said = [{"role": "user", "content": "one?"}, {"role": "assistant", "content": "1"}]
    unseen = {"archive_ids": [], "unseen": [{"ordinal": 1, "messages": said}]}
    async with out.http.post(f"{memory.url}/v1/sessions/s/archive", json=unseen) as answer:
        assert answer.status == 200, await answer.text()
    out.remembering = memory.url

    def model(body: dict[str, Any]) -> Said:
        last = body["messages"][-1]
        if last["role"] == "tool":
            return Said((last["content"],))
        if len(out.frontend.asked) > 1:
            return Said(("Fine.",))
        memory.process.signal(signal.SIGSTOP)
        return Said(calls=(("search_memory", '{"query": "one"}'),))

    out.frontend.model = model
    async with out.gateway("--memory-timeout-s", "20") as gateway:
        asking = asyncio.ensure_future(out.chat(gateway, TALK))
        await asked(out.frontend, 1)
        memory.process.kill()
        await memory.process.wait()
        status, answered, told = await asking

        assert (status, told["x-shepherd-memory"]) == (200, "degraded")
        assert "cannot be reached" in answered["choices"][0]["message"]["content"]
        before = out.frontend.asked[0]["messages"]
        memory = await start_memory(tmp_path, port)
        try:
            await memory.process.until(lives, timeout_s=60)

            async def remembers() -> bool:
                _, _, told = await out.chat(gateway, TALK)
                return told["x-shepherd-memory"] == "ok"

            await eventually(remembers, timeout_s=20)
        finally:
            memory.process.kill()
            await memory.process.wait()

    assert [message["role"] for message in before] == ["tool", "user"]
    assert out.frontend.asked[-1]["messages"] == before


async def test_a_drain_lets_a_slow_client_read_to_the_end(out: Outside) -> None:
    pause = asyncio.Event()
    words = ("word " * 200,) * 50
    out.frontend.model = lambda _: Said(words, pause=pause)
    body = {"model": "fake", "messages": TALK, "stream": True}
    async with out.gateway("--drain-timeout-s", "30") as gateway:
        url = f"{gateway.url}/v1/chat/completions"
        async with out.http.post(url, json=body) as answer:
            read = await answer.content.readany()
            gateway.process.signal(signal.SIGTERM)

            async def closed() -> bool:
                try:
                    _, writer = await asyncio.open_connection(
                        "127.0.0.1", int(url.split(":")[2].partition("/")[0])
                    )
                except OSError:
                    return True
                writer.close()
                return False

            await eventually(closed)
            pause.set()
            async for piece in answer.content.iter_chunked(4096):
                read += piece
                await asyncio.sleep(0.001)  # slow, not to wait for anything

        assert read.endswith(b"data: [DONE]\n\n")
        assert read.count(b'"content"') == len(words)
        assert await asyncio.wait_for(gateway.process.wait(), 10) == 0


async def test_a_drain_does_not_wait_for_ever_for_a_client_that_reads_nothing(out: Outside) -> None:
    out.frontend.model = lambda _: Said(("word " * 4000,) * 2000)
    body = json.dumps({"model": "fake", "messages": TALK, "stream": True}).encode()
    async with out.gateway("--drain-timeout-s", "1") as gateway:
        port = int(gateway.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as client:
            head = f"host: 127.0.0.1\r\ncontent-length: {len(body)}\r\n\r\n"
            client.sendall(f"POST /v1/chat/completions HTTP/1.1\r\n{head}".encode() + body)
            await asked(out.frontend, 1)
            gateway.process.signal(signal.SIGTERM)
            code = await asyncio.wait_for(gateway.process.wait(), 20)

    assert code == 0
    await asyncio.wait_for(out.frontend.left.wait(), 10)


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


async def test_a_thousand_idle_clients_cost_little_memory_and_nobody_waits_for_them(
    out: Outside,
) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < NUM_IDLE + SPARE_FILES:
        pytest.skip(f"this machine allows {soft} open files, {NUM_IDLE + SPARE_FILES} are needed")
    async with out.gateway() as gateway:
        await out.chat(gateway, [ONE])
        before = rss_bytes(gateway.process.pid)
        port = int(gateway.url.rpartition(":")[2])
        with ExitStack() as idle:
            for _ in range(NUM_IDLE):
                client = idle.enter_context(socket.create_connection(("127.0.0.1", port)))
                client.sendall(b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n")
                assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
                await asyncio.sleep(0)
            more = rss_bytes(gateway.process.pid) - before
            status, _, _ = await asyncio.wait_for(out.chat(gateway, [ONE]), 5)

    assert status == 200
    assert more / NUM_IDLE < 40_000
