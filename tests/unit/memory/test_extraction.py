"""What archived turns teach: each read once, whatever happens to the model or to us."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from memory_doors import House, house
from scripted_model import ScriptedModel
from shepherd_config import OptionError
from shepherd_memory.chat_model import (
    EndpointUnavailableError,
    OpenAiEndpoint,
    UnreadableAnswerError,
    parsed,
)
from shepherd_memory.config import load_config
from shepherd_memory.extraction import Extracted, Extraction

FOUND = '{"facts": {"pet": "a cat"}, "context": [{"q": "Where do cats sleep?", "a": "Here."}]}'


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[House]:
    """Two archived turns."""
    async with house(tmp_path) as opened:
        opened.talk("s")
        opened.evict()
        yield opened


def counted(door: House, outcome: str) -> float:
    name = "shepherd_memory_extractions_total"
    return door.means.metrics.registry.get_sample_value(name, {"outcome": outcome}) or 0.0


async def test_facts_and_memories_are_kept_and_each_turn_is_read_once(door: House) -> None:
    model = ScriptedModel(FOUND, "{}")

    for _ in range(3):
        await Extraction(model, door.means).catch_up()

    assert len(model.asked) == 2
    said = "<recalled_memory>\nuser: Where do cats sleep?\nassistant: Everywhere.\n"
    assert [text.startswith(said) for text in sorted(model.asked)] == [False, True]
    assert (await door.get("/v1/facts/pet"))["value"] == "a cat"
    (memory,) = (await door.get("/v1/memories"))["memories"]
    assert memory["messages"][1]["content"] == "Here."
    assert counted(door, "ok") == 2


async def test_what_is_erased_while_the_model_reads_leaves_no_fact(door: House) -> None:
    model = ScriptedModel(FOUND, before=lambda: door.call("DELETE", "/v1/sessions/s"))

    await Extraction(model, door.means).catch_up()

    assert (await door.get("/v1/facts"))["facts"] == []
    assert (await door.get("/v1/memories"))["memories"] == []


async def test_nothing_is_lost_when_the_process_ends_in_the_middle(door: House) -> None:
    dies = ScriptedModel(FOUND, asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        await Extraction(dies, door.means).catch_up()

    goes_on = ScriptedModel('{"facts": {"dogs": "on the cat"}}')
    await Extraction(goes_on, door.means).catch_up()

    assert len(goes_on.asked) == 1
    facts = (await door.get("/v1/facts"))["facts"]
    assert [fact["key"] for fact in facts] == ["dogs", "pet"]


async def test_a_model_that_is_down_is_asked_again_and_a_confused_one_is_passed_over(
    door: House,
) -> None:
    down = EndpointUnavailableError("down")
    model = ScriptedModel(down, down, "I cannot do that.", FOUND)

    await Extraction(model, door.means, first_pause_s=0).catch_up()

    assert (counted(door, "retried"), counted(door, "unreadable"), counted(door, "ok")) == (2, 1, 1)
    assert (await door.get("/v1/facts/pet"))["value"] == "a cat"


@pytest.mark.parametrize(
    "answer",
    ["", "no", "[]", "{", '{"facts": []}', '{"facts": {"a b": "c"}}', '{"facts": {"a": 5}}',
     '{"context": [{"q": "x"}]}', json.dumps({"facts": {f"k{n}": "v" for n in range(21)}})],
)  # fmt: skip
def test_an_answer_of_another_form_is_no_answer(answer: str) -> None:
    with pytest.raises(UnreadableAnswerError):
        parsed(answer, Extracted)


def test_an_object_is_found_among_words() -> None:
    assert parsed(f"Sure!\n```json\n{FOUND}\n```", Extracted) == Extracted.model_validate_json(
        FOUND
    )


@given(st.text())
def test_no_answer_does_more_than_be_refused(answer: str) -> None:
    try:
        parsed(answer, Extracted)
    except UnreadableAnswerError:
        return


async def test_an_endpoint_is_asked_as_openai_s_clients_do(door: House) -> None:
    got: list[Any] = []

    async def answer(request: web.Request) -> web.Response:
        got.append((request.headers.get("authorization"), await request.json()))
        status = {1: 500, 2: 200, 3: 400}[len(got)]
        return web.json_response({"choices": [{"message": {"content": FOUND}}]}, status=status)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    async with aiohttp.ClientSession() as session:
        model = OpenAiEndpoint(session, url, "tiny", "secret")
        await Extraction(model, door.means, first_pause_s=0).catch_up()
    await runner.cleanup()

    assert got[0][0] == "Bearer secret"
    assert (got[0][1]["model"], got[0][1]["temperature"]) == ("tiny", 0)
    assert [each["role"] for each in got[0][1]["messages"]] == ["system", "user"]
    assert (counted(door, "retried"), counted(door, "ok"), counted(door, "unreadable")) == (1, 1, 1)


async def test_extraction_is_off_unless_it_is_asked_for(tmp_path: Path) -> None:
    assert load_config([], {}).config.extract_url == ""
    with pytest.raises(OptionError, match="--extract-model and it, or neither"):
        load_config(["--extract-url", "http://a/v1"], {})
    with pytest.raises(OptionError, match="--extract-key-file"):
        load_config(["--extract-key-file", str(tmp_path / "none")], {})
