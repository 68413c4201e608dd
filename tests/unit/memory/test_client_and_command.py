"""Python's client and the shell's command over a real service."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner, Result

from memory_doors import House, Tenants, house
from shepherd_auth.identity import Scope
from shepherd_cli.__main__ import app
from shepherd_memory.client import (
    MemoryClient,
    MemoryClientError,
    MemoryUnreachableError,
    SyncMemoryClient,
)


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path / "data") as opened:
        opened.talk("a/b")
        opened.evict()
        yield opened


async def test_the_client_reads_and_writes_what_the_interface_offers(door: House) -> None:
    async with MemoryClient(door.url) as memory:
        (session,) = (await memory.sessions()).sessions
        assert (await memory.session("a/b")) == session
        assert [turn.ordinal for turn in (await memory.turns("a/b")).turns] == [1, 2, 3]
        hit = (await memory.search("where do cats sleep")).hits[0]
        assert (hit.session, hit.messages[1].content) == ("a/b", "Everywhere.")
        assert "Everywhere." in (await memory.context("cats")).text

        await memory.set_fact("user name/1", "Ann")
        assert (await memory.fact("user name/1")).value == "Ann"
        assert [fact.key for fact in (await memory.facts()).facts] == ["user name/1"]
        archive_id = await memory.store_memory("q", "a")
        assert [each.archive_id for each in (await memory.memories()).memories] == [archive_id]
        assert await memory.clear_memory("q") == 1
        assert (await memory.forget_fact("user name/1")).facts == 1

        (notice,) = (await memory.wait_for_notices(timeout_s=1)).notices
        await memory.acknowledge(notice.notice_id)
        assert (await memory.notices(state="pending")).notices == []
        assert "On the cat." in await memory.call_tool("search_memory", {"query": "dogs"})
        assert len(await memory.tools()) == 7

        records = [record async for record in memory.export()]
        assert [record["kind"] for record in records] == ["turn"] * 3 + ["notice", "end"]
        assert (await memory.stats()).archived_turns == 2
        assert (await memory.forget_turn(hit.archive_id)).turns == 1
        assert (await memory.forget_session("a/b")).turns == 2
        assert (await memory.sessions()).sessions == []
        with pytest.raises(MemoryClientError, match="404: there is no session") as refused:
            await memory.session("a/b")
        assert refused.value.problem["field"] == "session"


async def test_programs_without_an_event_loop_ask_as_well(door: House) -> None:
    def program() -> list[str]:
        with SyncMemoryClient(door.url) as memory:
            memory.set_fact("pet", "cat")
            memory.store_memory("q", "a")
            (notice,) = memory.notices(state="pending").notices
            memory.acknowledge(notice.notice_id)
            return [
                memory.search("cats", min_relevance=0.5, neighbours=True).hits[0].session,
                memory.facts().facts[0].value,
                memory.context("cats").text[:17],
                memory.call_tool("get_fact", {"key": "pet"}).splitlines()[1],
                memory.tools()[0]["function"]["name"],
                memory.run(memory.client.turns("a/b")).turns[0].session,
            ]

    assert await asyncio.to_thread(program) == [
        "a/b",
        "cat",
        "<recalled_memory>",
        "cat",
        "search_memory",
        "a/b",
    ]


async def test_a_call_is_made_again_with_the_same_key_until_it_is_answered() -> None:
    keys: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        keys.append(request.headers["idempotency-key"])
        if len(keys) < 3:
            return web.Response(status=(503, 429)[len(keys) - 1], headers={"retry-after": "0"})
        return web.json_response({"archive_id": "x"}, status=201)

    application = web.Application()
    application.router.add_post("/v1/memories", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    async with MemoryClient(f"http://127.0.0.1:{runner.addresses[0][1]}") as memory:
        assert await memory.store_memory("q", "a") == "x"
    await runner.cleanup()

    assert len(keys) == 3
    assert len(set(keys)) == 1
    async with MemoryClient("http://127.0.0.1:9", pause_s=0.001) as memory:
        with pytest.raises(MemoryUnreachableError, match="does not answer"):
            await memory.stats()


def shepherd(*argv: str, url: str = "http://127.0.0.1:9", **environment: str) -> Result:
    return CliRunner().invoke(app, ["memory", "--url", url, *argv], env=environment)


async def said(door: House, *argv: str, code: int = 0, **environment: str) -> Result:
    admin = {"SHEPHERD_MEMORY_ADMIN_URL": str(door.admin._base_url).rstrip("/")}
    result = await asyncio.to_thread(shepherd, *argv, url=door.url, **admin, **environment)
    assert result.exit_code == code, result.output
    return result


async def test_the_command_shows_searches_exports_and_forgets(door: House) -> None:
    assert "a/b" in (await said(door, "sessions")).stdout
    assert "user: And dogs?" in (await said(door, "show", "a/b")).stdout
    found = json.loads((await said(door, "search", "cats sleep", "-k", "1", "--json")).stdout)
    assert [hit["ordinal"] for hit in found["hits"]] == [1]
    narrowed = await said(
        door, "search", "dogs", "-k", "1", "--neighbours", "--since", "1970-01-01"
    )
    assert "assistant: Everywhere." in narrowed.stdout
    late = await said(door, "search", "dogs", "--since", "2200-12-31", "--min-relevance", "0.1")
    assert late.stderr == "nothing found\n"
    wrong = await said(door, "search", "dogs", "--until", "May", code=2)
    assert "--until 'May' is not valid: expected a day such as 2026-05-31" in wrong.stderr
    nothing = await said(door, "search", "unheard")
    assert (nothing.stdout, nothing.stderr) == ("", "nothing found\n")
    assert json.loads((await said(door, "stats", "--json")).stdout)["archived_turns"] == 2
    assert (await said(door, "facts")).stderr == "nothing there\n"
    lines = (await said(door, "export")).stdout.splitlines()
    assert json.loads(lines[-1]) == {"kind": "end", "records": 4}

    await said(door, "forget", code=2)
    refused = await said(door, "forget", "a/b", code=1)  # nobody says yes
    assert "for good?" in refused.stderr
    erased = json.loads((await said(door, "forget", "a/b", "--yes", "--json")).stdout)
    assert erased["turns"] == 3
    await said(door, "show", "a/b", code=1)
    await said(door, "forget", "--everything", "--yes")


async def test_the_operator_s_commands_use_the_operator_s_port(door: House, tmp_path: Path) -> None:
    backup = await said(door, "backup", "--name", "one")
    assert os.listdir(backup.stdout.strip()) == ["000000.db"]  # noqa: PTH208 - a path as it was said
    await said(door, "backup", "--name", "one", code=1)
    assert (await said(door, "dead-letters", "list")).stderr == "nothing there\n"
    await said(door, "dead-letters", "drop", "local", "none", code=1)
    await said(door, "dead-letters", "replay", "local", "cannot be applied", code=1)
    await said(door, "dead-letters", "replay", "local", "can be applied now")


def test_nobody_there_is_exit_code_4() -> None:
    result = shepherd("stats")

    assert result.exit_code == 4
    assert "does not answer" in result.stderr
    assert result.stdout == ""


async def test_keys_are_made_for_the_service_that_reads_them(tmp_path: Path) -> None:
    tenants = Tenants(tmp_path)
    file = ("--file", tenants.options["api_keys_file"])
    async with house(tmp_path / "data", **tenants.options) as door:
        made = await said(door, "keys", "create", *file, "--tenant", "acme", "--scope", "read")
        secret = made.stdout.strip()
        assert "not shown again" in made.stderr
        await said(door, "stats", SHEPHERD_MEMORY_KEY=secret)
        await said(door, "stats", code=4)
        listed = json.loads((await said(door, "keys", "list", *file, "--json")).stdout)
        mine = next(key for key in listed if key["tenant"] == "acme")
        assert secret not in json.dumps(listed)

        rotated = await said(door, "keys", "rotate", *file, mine["key_id"], "--overlap", "0s")
        await said(door, "stats", SHEPHERD_MEMORY_KEY=secret, code=4)
        key_file = tmp_path / "key"
        key_file.write_text(rotated.stdout)
        key_file.chmod(0o600)
        await said(door, "stats", SHEPHERD_MEMORY_KEY_FILE=str(key_file))
        new_id = rotated.stdout.split("_")[1]
        await said(door, "keys", "revoke", *file, new_id)
        await said(door, "stats", SHEPHERD_MEMORY_KEY_FILE=str(key_file), code=4)

        await said(door, "keys", "revoke", *file, new_id, code=1)
        await said(door, "keys", "create", *file, "--tenant", "a b", code=2)
        await said(door, "keys", "create", *file, "--tenant", "a", "--lifetime", "soon", code=2)
        key_file.chmod(0o644)
        await said(door, "stats", SHEPHERD_MEMORY_KEY_FILE=str(key_file), code=3)
        gateway = tenants.key("*", Scope.READ)
        await said(door, "--tenant", "acme", "stats", SHEPHERD_MEMORY_KEY=gateway)


async def test_the_service_refuses_to_be_reached_without_credentials(tmp_path: Path) -> None:
    argv = ("-m", "shepherd_memory", "--http-host", "0.0.0.0", "--data-dir", str(tmp_path))
    environment: dict[str, Any] = dict(os.environ) | {"PYTHONPATH": "components"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, *argv, env=environment, stderr=asyncio.subprocess.PIPE
    )
    _, stderr = await process.communicate()

    assert process.returncode == 2
    assert b"--http-host: '0.0.0.0' is not valid" in stderr
