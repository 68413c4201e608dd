"""A request goes upstream while the memory is asked whether what was known of it still holds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway_house import House, asked, house
from shepherd_gateway.archived import NOTHING, KeptTurn, SessionNotice, SessionView
from shepherd_gateway.context import MAX_TOLD
from shepherd_gateway.fake import Said
from shepherd_gateway.views import Views

ONE = {"role": "user", "content": "one?"}
ONE_ANSWERED = {"role": "assistant", "content": "1"}
TWO = {"role": "user", "content": "two?"}
TALK = [ONE, ONE_ANSWERED, TWO]
NOTICE = {
    "role": "tool",
    "name": "context_eviction",
    "tool_call_id": "context_eviction",
    "content": 'NOTICE: "one?" has been moved to long-term memory.',
}


@pytest.fixture
async def door() -> AsyncIterator[House]:
    async with house() as opened:
        yield opened


def evict_the_first(door: House, session: str = "s") -> None:
    door.memory.evict(session, door.memory.hear(session, ("user", "one?"), ("assistant", "1")))


@pytest.mark.parametrize("streams", [False, True])
async def test_the_frontend_is_asked_before_the_memory_has_answered(
    door: House, streams: bool
) -> None:
    await door.chat([ONE])
    door.memory.pause = asyncio.Event()
    ask = door.stream(TALK) if streams else door.chat(TALK)
    asking = asyncio.ensure_future(ask)
    await asked(door.frontend, 2)

    assert not asking.done()
    door.memory.pause.set()
    _, told = await asking
    assert told["x-shepherd-memory"] == "ok"
    assert [body["messages"] for body in door.frontend.asked] == [[ONE], TALK]


@pytest.mark.parametrize("streams", [False, True])
async def test_what_the_memory_has_archived_since_is_told_in_the_same_turn(
    door: House, streams: bool
) -> None:
    await door.chat([ONE])
    evict_the_first(door)
    door.frontend.model = lambda body: Said((str(len(body["messages"])),))
    if streams:
        events, told = await door.stream(TALK)
        pieces = [c["delta"].get("content") or "" for e in events for c in e["choices"]]
        said = "".join(pieces)
    else:
        answer, told = await door.chat(TALK)
        said = answer["choices"][0]["message"]["content"]

    assert door.frontend.asked[-1]["messages"] == [NOTICE, TWO]
    assert said == "2", "the answer to the whole history is nobody's"
    assert (told["x-shepherd-dropped-turns"], told["x-shepherd-notices"]) == ("1", "1")
    assert (await door.metrics())["shepherd_gateway_contexts_renewed_total"] == 1
    await door.chat(TALK)
    assert (await door.metrics())["shepherd_gateway_contexts_renewed_total"] == 1


async def test_a_withdrawn_request_stops_its_generation(door: House) -> None:
    await door.chat([ONE])
    evict_the_first(door)
    never = asyncio.Event()

    def model(body: dict[str, Any]) -> Said:
        return Said(("slow",), pause=never) if body["messages"] == TALK else Said(("quick",))

    door.frontend.model = model
    answer, _ = await door.chat(TALK)

    assert answer["choices"][0]["message"]["content"] == "quick"
    await asyncio.wait_for(door.frontend.left.wait(), 10)


async def test_no_tool_is_called_for_an_answer_that_does_not_count(door: House) -> None:
    await door.chat([ONE])
    evict_the_first(door)

    def model(body: dict[str, Any]) -> Said:
        if body["messages"] == TALK:
            return Said(calls=(("search_memory", '{"query": "wrong"}'),))
        if body["messages"][-1]["role"] == "tool":
            return Said(("found",))
        return Said(calls=(("search_memory", '{"query": "right"}'),))

    door.frontend.model = model
    await door.stream(TALK)

    assert door.memory.searched == [("local", "right")]


async def test_a_session_that_is_not_known_is_asked_for_first(door: House) -> None:
    evict_the_first(door)
    await door.chat(TALK)

    assert [body["messages"] for body in door.frontend.asked] == [[NOTICE, TWO]]


async def test_a_forgotten_session_gets_its_history_back(door: House) -> None:
    evict_the_first(door)
    await door.chat(TALK)
    door.memory.forget("s")
    _, told = await door.chat(TALK)

    assert door.frontend.asked[-1]["messages"] == TALK
    assert told["x-shepherd-notices"] == "0"


async def test_a_guess_that_nobody_confirms_is_used_and_said_to_be_one(door: House) -> None:
    evict_the_first(door)
    await door.chat(TALK)
    door.memory.status = 503
    _, told = await door.chat(TALK)

    assert door.frontend.asked[-1]["messages"] == [NOTICE, TWO]
    assert told["x-shepherd-memory"] == "degraded"


async def test_a_refusal_of_the_frontend_does_not_wait_for_the_memory(door: House) -> None:
    await door.chat([ONE])
    door.memory.pause = asyncio.Event()
    door.frontend.model = lambda _: Said(status=400, error="no")
    status, answer, _ = await door.post({"messages": TALK}, x_session_id="s")
    door.memory.pause.set()

    assert (status, answer["error"]["message"]) == (400, "no")


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_is_archived_meanwhile_each_answer_is_made_of_what_the_memory_holds(
    door: House, seed: int
) -> None:
    chance = random.Random(seed)
    talk: list[dict[str, Any]] = []
    live: dict[str, str] = {}
    """Questions by archive id."""
    num_notices = 0
    for number in range(25):
        question = f"question {number}?"
        talk.append({"role": "user", "content": question})
        await chance.choice((door.chat, door.stream))(talk)

        sent = door.frontend.asked[-1]["messages"]
        told = sum(each.get("name") == "context_eviction" for each in sent)
        assert min(num_notices, MAX_TOLD) <= told <= num_notices
        asked_for = [each["content"] for each in sent if each["role"] == "user"]
        assert asked_for == [*live.values(), question]

        said = (("user", question), ("assistant", "Hello there."))
        talk.append({"role": "assistant", "content": "Hello there."})
        gone = [each for each in live if chance.random() < 0.2]
        live[door.memory.hear("s", *said)] = question
        if gone:
            door.memory.evict("s", *gone)
            num_notices += 1
            live = {name: text for name, text in live.items() if name not in gone}

    renewed = (await door.metrics())["shepherd_gateway_contexts_renewed_total"]
    assert renewed == num_notices - bool(gone), "one for each notice that a request came after"


def test_views_are_bounded_and_the_one_unused_for_longest_goes_first() -> None:
    kept = KeptTurn("a", 1, is_archived=True, messages=(), started_unix_ns=0)
    full = SessionView((kept,), (SessionNotice("n", "text", frozenset({"a"}), 1),))
    views = Views(max_full=2, max_empty=1)
    views.keep("t", "empty-1", NOTHING)
    views.keep("t", "empty-2", NOTHING)
    for name in ("full-1", "full-2", "full-1", "full-3"):
        views.keep("t", name, full)
    views.keep("t", "full-1", NOTHING)

    assert views.of("t", "empty-1") is None
    assert views.of("t", "empty-2") is None, "full-1 is empty now, and the latest of those"
    assert views.of("t", "full-1") == NOTHING
    assert views.of("t", "full-2") is None
    assert views.of("t", "full-3") is full
    assert views.of("u", "full-3") is None
    assert len(views) == 2
