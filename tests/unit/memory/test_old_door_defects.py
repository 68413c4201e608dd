"""What went wrong at the doors of the memory that ours is modelled on; each test fails on its behaviour."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from memory_doors import Tenants, house
from shepherd_cli.__main__ import app
from shepherd_memory.archive.fake import FakeArchives
from shepherd_memory.errors import StoreUnavailableError
from shepherd_memory.extraction import Extraction


@pytest.mark.parametrize("field", ["user", "user_id", "_user_id", "tenant"])
async def test_a_field_of_the_request_does_not_override_the_key(tmp_path: Path, field: str) -> None:
    tenants = Tenants(tmp_path)
    async with house(tmp_path / "data", **tenants.options) as door:
        ann, bob = tenants.key("ann"), tenants.key("bob")
        stored = {"arguments": {"question": "my secret", "answer": "42", field: "bob"}}
        await door.call("POST", "/v1/tools/store_memory", json=stored, key=ann)

        asked = {"arguments": {"query": "secret", field: "ann"}}
        found = await door.call("POST", "/v1/tools/search_memory", json=asked, key=bob)

    assert found["content"] == "No archived conversations found matching: secret"


async def test_a_session_whose_turns_left_the_cache_is_told(tmp_path: Path) -> None:
    async with house(tmp_path) as door:
        door.talk("s")
        waiting = asyncio.ensure_future(door.get("/v1/notices/wait?session=s&timeout=30"))
        await asyncio.sleep(0)
        door.evict()
        (notice,) = (await waiting)["notices"]

    assert notice["text"] == (
        'NOTICE: Conversation regarding "Where do cats sleep?" has been moved to long-term '
        "memory. Use search_memory to recall it."
    )


class Reader:
    """A model that finds one fact, or dies first."""

    def __init__(self, *, dies: bool) -> None:
        self._dies = dies

    async def complete(self, instructions: str, text: str) -> str:
        if self._dies:
            raise asyncio.CancelledError
        return '{"facts": {"pet": "a cat"}}'


async def test_turns_that_wait_to_be_read_survive_the_end_of_the_process(tmp_path: Path) -> None:
    async with house(tmp_path) as door:
        door.talk("s")
        door.evict()
        with pytest.raises(asyncio.CancelledError):
            await Extraction(Reader(dies=True), door.means).catch_up()

    async with house(tmp_path) as door:
        await Extraction(Reader(dies=False), door.means).catch_up()
        assert (await door.get("/v1/facts/pet"))["value"] == "a cat"


class NoArchives(FakeArchives):
    """What a check meets that looks into the wrong place."""

    def of(self, tenant: str) -> Any:
        raise StoreUnavailableError("x.db", "no such table: conversations")


async def test_a_check_that_cannot_look_says_so_and_not_zero(tmp_path: Path) -> None:
    async with house(tmp_path, archives=NoArchives()) as door:
        argv = ["memory", "--url", door.url, "stats"]
        result = await asyncio.to_thread(CliRunner().invoke, app, argv)

    assert result.exit_code == 1
    assert result.stdout == ""
    assert "503" in result.stderr
