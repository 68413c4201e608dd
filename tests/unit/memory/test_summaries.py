"""Summaries of stretches: kept once, found, exported and erased with their sessions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from archive_samples import a_turn, keep
from memory_doors import House, house
from scripted_model import ScriptedModel
from shepherd_config import OptionError
from shepherd_memory.archive.records import Document
from shepherd_memory.archive.summary import summary_of
from shepherd_memory.chat_model import EndpointUnavailableError
from shepherd_memory.config import load_config
from shepherd_memory.extraction import Extraction
from shepherd_memory.retrieval.corpus import Corpus
from shepherd_memory.summaries import Summaries

TOLD = '{"summary": "They settled where the walrus lives."}'


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[House]:
    """Five archived turns of one session; stretches are of two."""
    async with house(tmp_path) as opened:
        turns = [a_turn(n, f"question {n}", tenant="local", started=n) for n in range(1, 6)]
        keep(opened.means.archives, *turns, tenant="local", archived=True)
        yield opened


def counted(door: House, outcome: str) -> float:
    name = "shepherd_memory_summaries_total"
    return door.means.metrics.registry.get_sample_value(name, {"outcome": outcome}) or 0.0


async def hits(door: House) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await door.get("/v1/search?query=walrus&k=9"))["hits"]
    return found


async def test_every_full_stretch_is_summarised_once_beside_its_turns(door: House) -> None:
    model = ScriptedModel(TOLD)

    for _ in range(3):
        await Summaries(model, door.means, num_turns=2).catch_up()

    assert [text.count("question") for text in model.asked] == [2, 2]
    assert ["question 1" in text for text in model.asked] == [True, False]
    assert [(hit["ordinal"], hit["messages"][0]["role"]) for hit in await hits(door)] == [
        (0, "summary")
    ] * 2
    turns = (await door.get("/v1/sessions/s/turns"))["turns"]
    assert [turn["ordinal"] for turn in turns] == [1, 2, 3, 4, 5]
    exported = str(await door.get("/v1/export"))
    assert exported.count("walrus") == 2
    assert counted(door, "ok") == 2
    model.asked.clear()
    await Extraction(model, door.means).catch_up()
    assert not any("walrus" in text for text in model.asked)


async def test_a_model_that_is_down_is_asked_again_and_a_confused_one_leaves_no_summary(
    door: House,
) -> None:
    model = ScriptedModel(EndpointUnavailableError("down"), "Sure!", '{"summary": " "}')

    await Summaries(model, door.means, num_turns=2, first_pause_s=0).catch_up()

    assert (counted(door, "retried"), counted(door, "unreadable"), counted(door, "ok")) == (1, 2, 0)
    assert await hits(door) == []


async def test_a_summary_that_the_end_of_the_process_cut_off_is_written_afterwards(
    door: House,
) -> None:
    dies = ScriptedModel(TOLD, asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        await Summaries(dies, door.means, num_turns=2).catch_up()
    assert len(await hits(door)) == 1

    goes_on = ScriptedModel(TOLD)
    await Summaries(goes_on, door.means, num_turns=2).catch_up()

    assert len(goes_on.asked) == 1
    assert len(await hits(door)) == 2


@pytest.mark.parametrize("erased", ["/v1/sessions/s", "turn"])
async def test_a_summary_goes_with_its_session_and_with_any_turn_of_it(
    door: House, erased: str
) -> None:
    await Summaries(ScriptedModel(TOLD), door.means, num_turns=2).catch_up()
    turns = (await door.get("/v1/sessions/s/turns"))["turns"]
    path = f"/v1/turns/{turns[4]['archive_id']}" if erased == "turn" else erased

    await door.call("DELETE", path)

    assert await hits(door) == []
    assert "walrus" not in str(await door.get("/v1/export"))


async def test_what_is_erased_while_the_model_reads_is_not_summarised(door: House) -> None:
    model = ScriptedModel(TOLD, before=lambda: door.call("DELETE", "/v1/sessions/s"))

    await Summaries(model, door.means, num_turns=2).catch_up()

    assert await hits(door) == []


def test_a_stretch_has_one_name_whatever_is_said_of_it() -> None:
    stretch = [a_turn(1, "one"), a_turn(2, "two")]

    first, again = summary_of("t", stretch, "this"), summary_of("t", stretch, "that")

    assert first.archive_id == again.archive_id
    assert first.archive_id != summary_of("t", stretch[:1], "this").archive_id
    assert first.archive_id != summary_of("u", stretch, "this").archive_id
    assert first.age_key < stretch[1].age_key


def test_a_summary_is_no_neighbour_of_the_first_turn() -> None:
    corpus = Corpus().grown([Document(doc, "s", doc - 1, doc, 5) for doc in (1, 2, 3)])

    assert (corpus.beside(0, 1), corpus.beside(1, -1), corpus.beside(1, 1)) == (None, None, 3)


@pytest.mark.parametrize("turns", ["1", "101", "-2"])
def test_a_stretch_out_of_bounds_is_refused_as_one_without_a_model_is(turns: str) -> None:
    model = ["--extract-url", "http://a/v1", "--extract-model", "m"]
    with pytest.raises(OptionError, match="0, or from 2 to 100"):
        load_config([*model, "--summarise-turns", turns], {})
    with pytest.raises(OptionError, match="--extract-url with it"):
        load_config(["--summarise-turns", "10"], {})
    assert load_config([*model, "--summarise-turns", "10"], {}).config.summarise_turns == 10
