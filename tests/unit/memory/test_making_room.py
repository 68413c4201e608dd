"""Turns leave a context window that has no room for them: archived and told of, once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from memory_doors import SAID, House, Tenants, house


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as opened:
        yield opened


UNSEEN = {
    "ordinal": 1,
    "messages": [
        {"role": "user", "content": "What do owls eat?"},
        {"role": "assistant", "content": "Mice."},
    ],
}


async def test_a_live_turn_is_archived_found_and_told_of_once(door: House) -> None:
    door.talk()
    turns = (await door.get("/v1/sessions/s/turns"))["turns"]
    body = {"archive_ids": [turns[0]["archive_id"]]}

    first = await door.call("POST", "/v1/sessions/s/archive", json=body)
    again = await door.call("POST", "/v1/sessions/s/archive", json=body)

    assert (first, again) == ({"archived": True}, {"archived": False})
    states = [each["state"] for each in (await door.get("/v1/sessions/s/turns"))["turns"]]
    assert states == ["archived", "live", "live"]
    (notice,) = (await door.get("/v1/notices?session=s"))["notices"]
    assert notice["archive_ids"] == body["archive_ids"]
    assert notice["topic"] == "Where do cats sleep?"
    (hit,) = (await door.get("/v1/search?query=cats+sleep&session=s"))["hits"]
    assert hit["archive_id"] == turns[0]["archive_id"]


async def test_the_workers_later_eviction_changes_nothing(door: House) -> None:
    door.talk()
    turns = (await door.get("/v1/sessions/s/turns"))["turns"]
    ids = [each["archive_id"] for each in turns[:2]]
    await door.call("POST", "/v1/sessions/s/archive", json={"archive_ids": ids})
    door.evict()
    door.talk(said=[*SAID, ("user", "So?"), ("assistant", "So.")])

    assert len((await door.get("/v1/notices?session=s"))["notices"]) == 1
    assert door.consumer.check() is None


async def test_a_turn_that_no_worker_was_shown_is_archived_word_for_word(door: House) -> None:
    body = {"unseen": [UNSEEN]}

    assert await door.call("POST", "/v1/sessions/new/archive", json=body) == {"archived": True}
    assert await door.call("POST", "/v1/sessions/new/archive", json=body) == {"archived": False}
    (turn,) = (await door.get("/v1/sessions/new/turns"))["turns"]
    assert (turn["ordinal"], turn["state"]) == (1, "archived")
    assert turn["messages"] == UNSEEN["messages"]
    (hit,) = (await door.get("/v1/search?query=owls"))["hits"]
    assert hit["archive_id"] == turn["archive_id"]


async def test_a_turn_that_no_worker_was_shown_is_of_the_time_when_it_was_told_or_of_the_next_one(
    door: House,
) -> None:
    door.talk()
    body = {"unseen": [UNSEEN]}

    await door.call("POST", "/v1/sessions/new/archive", json=body)
    await door.call("POST", "/v1/sessions/s/archive", json=body)

    (alone,) = (await door.get("/v1/sessions/new/turns"))["turns"]
    (told,) = (await door.get("/v1/notices?session=new"))["notices"]
    assert alone["started_unix_ns"] == told["created_unix_ns"]
    turns = (await door.get("/v1/sessions/s/turns"))["turns"]
    assert [each["ordinal"] for each in turns] == [1, 1, 2, 3]
    assert len({each["started_unix_ns"] for each in turns}) == 1


async def test_another_sessions_turn_is_not_there_and_nothing_is_half_done(door: House) -> None:
    door.talk("s")
    turn = (await door.get("/v1/sessions/s/turns"))["turns"][0]
    body = {"archive_ids": [turn["archive_id"]], "unseen": [UNSEEN]}

    problem = await door.call("POST", "/v1/sessions/t/archive", 404, json=body)

    assert problem["field"] == "turn"
    await door.get("/v1/sessions/t", 404)
    assert (await door.get("/v1/sessions/s"))["archived_turns"] == 0


async def test_making_room_needs_the_right_to_write_and_stays_in_its_tenant(tmp_path: Path) -> None:
    tenants = Tenants(tmp_path)
    async with house(tmp_path, **tenants.options) as door:
        from shepherd_auth.identity import Scope

        reader = tenants.key("acme", Scope.READ)
        body = {"unseen": [UNSEEN]}
        await door.call("POST", "/v1/sessions/s/archive", 403, json=body, key=reader)
        await door.call("POST", "/v1/sessions/s/archive", json=body, key=tenants.key("acme"))

        assert (await door.call("GET", "/v1/sessions/s", key=reader))["archived_turns"] == 1
        await door.call("GET", "/v1/sessions/s", 404, key=tenants.key("other"))
