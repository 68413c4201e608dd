"""A chat through the gateway: context, recall, streams, and what the client is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway_house import House, acknowledged, house
from shepherd_gateway.fake import SEARCH_TOOL, USAGE, Said

SEARCH = ("search_memory", '{"query": "cats"}')
WEATHER = ("get_weather", '{"city": "Bonn"}')
WEATHER_TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {}}}
FOUND = "Cats sleep everywhere."


@pytest.fixture
async def door() -> AsyncIterator[House]:
    async with house() as opened:
        opened.memory.results["cats"] = FOUND
        yield opened


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def recalling(*calls: tuple[str, str], words: tuple[str, ...] = ()) -> Any:
    """A model that calls until it has results."""

    def model(body: dict[str, Any]) -> Said:
        if body["messages"][-1]["role"] == "tool":
            return Said(("They sleep", " everywhere."))
        return Said(words, calls)

    return model


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(c["delta"].get("content") or "" for e in events for c in e.get("choices", ()))


TALK = [user("one?"), assistant("1"), user("two?"), assistant("2"), user("three?")]


def evicted(door: House, session: str = "s") -> str:
    first = door.memory.hear(session, ("user", "one?"), ("assistant", "1"))
    door.memory.hear(session, ("user", "two?"), ("assistant", "2"))
    return door.memory.evict(session, first)


NOTICE = {
    "role": "tool",
    "name": "context_eviction",
    "tool_call_id": "context_eviction",
    "content": 'NOTICE: "one?" has been moved to long-term memory.',
}


async def test_archived_turns_go_and_the_notice_is_told_once_to_memory(door: House) -> None:
    notice = evicted(door)

    _, told = await door.chat(TALK)
    _, again = await door.chat([*TALK, assistant("3"), user("four?")])

    first, second = (asked["messages"] for asked in door.frontend.asked)
    assert first == [user("two?"), assistant("2"), NOTICE, user("three?")]
    assert second == [*first, assistant("3"), user("four?")]
    assert told["x-shepherd-memory"] == "ok"
    assert (told["x-shepherd-dropped-turns"], told["x-shepherd-notices"]) == ("1", "1")
    assert told["x-shepherd-session"] == "s"
    assert again["x-shepherd-notices"] == "1"
    await acknowledged(door.memory, notice)
    metrics = await door.metrics()
    assert metrics["shepherd_gateway_notices_inserted_total"] == 1
    assert metrics["shepherd_gateway_turns_dropped_total"] == 2


async def test_without_a_session_everything_passes_as_it_is(door: House) -> None:
    body = {"messages": TALK, "tools": [WEATHER_TOOL], "seed": 7}
    status, _, told = await door.post(body)

    assert status == 200
    assert door.frontend.asked == [{"model": "fake", **body}]
    assert "x-dynamo-session-id" not in door.frontend.headers[0]
    assert told["x-shepherd-memory"] == "off"
    assert door.memory.asked == []


async def test_a_session_may_stand_in_the_body(door: House) -> None:
    evicted(door)
    _, _, told = await door.post({"messages": TALK, "metadata": {"session_id": "s"}})

    assert told["x-shepherd-notices"] == "1"
    assert door.frontend.headers[0]["x-dynamo-session-id"] == "s"


async def test_the_memory_is_searched_here_and_the_client_sees_the_answer_alone(
    door: House,
) -> None:
    door.frontend.model = recalling(SEARCH)
    answer, told = await door.chat([user("Where do cats sleep?")])

    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "They sleep everywhere."}
    assert choice["finish_reason"] == "stop"
    assert told["x-shepherd-recalls"] == "1"
    assert door.memory.searched == [("local", "cats")]
    first, second = door.frontend.asked
    assert first["tools"] == second["tools"] == [SEARCH_TOOL]
    assert second["messages"][1]["tool_calls"][0]["function"]["name"] == "search_memory"
    assert second["messages"][2]["content"] == FOUND
    assert answer["usage"] == {
        "prompt_tokens": 2 * USAGE["prompt_tokens"],
        "completion_tokens": 4,
        "total_tokens": 24,
        "prompt_tokens_details": {"cached_tokens": 6},
    }


async def test_a_stream_goes_on_through_the_search_under_one_id(door: House) -> None:
    door.frontend.model = recalling(SEARCH, words=("Let me see. ",))
    events, _ = await door.stream(
        [user("Where do cats sleep?")], stream_options={"include_usage": True}
    )

    assert text_of(events) == "Let me see. They sleep everywhere."
    assert {event["id"] for event in events} == {"chatcmpl-1"}
    assert not any(c["delta"].get("tool_calls") for e in events for c in e["choices"])
    finishes = [c["finish_reason"] for e in events for c in e["choices"] if c["finish_reason"]]
    assert finishes == ["stop"]
    assert [event["usage"]["total_tokens"] for event in events if event.get("usage")] == [24]
    assert door.frontend.asked[1]["messages"][1]["content"] == "Let me see. "


async def test_usage_is_not_told_in_a_stream_that_did_not_ask(door: House) -> None:
    events, _ = await door.stream([user("hello")])

    assert text_of(events) == "Hello there."
    assert not any(event.get("usage") for event in events)


async def test_the_search_is_shown_as_reasoning_where_the_client_asks(door: House) -> None:
    door.frontend.model = recalling(SEARCH)
    body = {"model": "fake", "messages": [user("cats?")], "stream": True}
    headers = {"x-dynamo-session-id": "s", "x-shepherd-show-recall": "true"}
    url = f"{door.url}/v1/chat/completions"
    async with door.http.post(url, json=body, headers=headers) as answer:
        text = await answer.text()

    assert '"reasoning_content":"search_memory({\\"query\\": \\"cats\\"})' in text


@pytest.mark.parametrize("stream", [False, True])
async def test_the_clients_own_calls_pass_through(door: House, stream: bool) -> None:
    door.frontend.model = lambda _: Said(("One moment.",), (WEATHER,))
    if stream:
        events, _ = await door.stream([user("Rain?")], tools=[WEATHER_TOOL])
        pieces = [p for e in events for c in e["choices"] for p in c["delta"].get("tool_calls", ())]
        names = [piece["function"]["name"] for piece in pieces]
        finish = events[-1]["choices"][0]["finish_reason"]
    else:
        answer, _ = await door.chat([user("Rain?")], tools=[WEATHER_TOOL])
        choice = answer["choices"][0]
        names = [call["function"]["name"] for call in choice["message"]["tool_calls"]]
        finish = choice["finish_reason"]

    assert names == ["get_weather"]
    assert finish == "tool_calls"
    assert door.frontend.asked[0]["tools"] == [WEATHER_TOOL, SEARCH_TOOL]
    assert len(door.frontend.asked) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_of_calls_at_once_the_memorys_come_first_and_the_clients_after(
    door: House, stream: bool
) -> None:
    def model(body: dict[str, Any]) -> Said:
        knows = body["messages"][-1]["role"] == "tool"
        return Said((), (WEATHER,) if knows else (WEATHER, SEARCH))

    door.frontend.model = model
    if stream:
        events, _ = await door.stream([user("?")], tools=[WEATHER_TOOL])
        calls = [p for e in events for c in e["choices"] for p in c["delta"].get("tool_calls", ())]
    else:
        answer, _ = await door.chat([user("?")], tools=[WEATHER_TOOL])
        calls = answer["choices"][0]["message"]["tool_calls"]

    assert [call["function"]["name"] for call in calls] == ["get_weather"]
    told = door.frontend.asked[1]["messages"][1]["tool_calls"]
    assert [call["function"]["name"] for call in told] == ["search_memory"]


async def test_a_client_with_a_search_of_its_own_keeps_it(door: House) -> None:
    theirs = {"type": "function", "function": {"name": "search_memory", "description": "mine"}}
    door.frontend.model = lambda _: Said((), (SEARCH,))
    answer, _ = await door.chat([user("?")], tools=[theirs])

    assert answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "search_memory"
    assert door.memory.searched == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_loop_that_never_ends_is_ended(stream: bool) -> None:
    async with house(max_tool_rounds=3) as door:
        door.frontend.model = lambda _: Said(("Hm. ",), (SEARCH, WEATHER))
        if stream:
            events, _ = await door.stream([user("?")], tools=[WEATHER_TOOL])
            calls = [
                p for e in events for c in e["choices"] for p in c["delta"].get("tool_calls", ())
            ]
        else:
            answer, _ = await door.chat([user("?")], tools=[WEATHER_TOOL])
            calls = answer["choices"][0]["message"]["tool_calls"]

        assert [call["function"]["name"] for call in calls] == ["get_weather"]
        assert len(door.frontend.asked) == 4
        assert door.frontend.asked[-1]["tools"] == [WEATHER_TOOL]
        assert (await door.metrics())["shepherd_gateway_tool_limit_reached_total"] == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_loop_of_ours_alone_ends_with_what_was_said(stream: bool) -> None:
    async with house(max_tool_rounds=1) as door:
        door.frontend.model = lambda _: Said(("Hm. ",), (SEARCH,))
        if stream:
            events, _ = await door.stream([user("?")])
            assert text_of(events) == "Hm. Hm. "
            assert events[-1]["choices"][0]["finish_reason"] == "stop"
        else:
            answer, _ = await door.chat([user("?")])
            assert answer["choices"][0]["message"]["content"] == "Hm. "
            assert answer["choices"][0]["finish_reason"] == "stop"
        assert "tools" not in door.frontend.asked[-1]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ('{"query": ', "Error: the arguments are not a JSON object. Call again with valid JSON."),
        ("[1]", "Error: the arguments are not a JSON object. Call again with valid JSON."),
        ("{}", "Error: query is missing"),
    ],
)
async def test_wrong_arguments_are_the_models_to_mend(
    door: House, arguments: str, told: str
) -> None:
    door.frontend.model = recalling(("search_memory", arguments))
    await door.chat([user("cats?")])

    assert door.frontend.asked[1]["messages"][-1]["content"] == told


async def test_a_prompt_that_is_too_long_has_its_oldest_turns_archived_first(door: House) -> None:
    long = "word " * 200
    talk = [m for n in range(6) for m in (user(f"q{n}? {long}"), assistant(f"a{n}"))]
    for n in range(2, 6):
        door.memory.hear("s", ("user", f"q{n}? {long}"), ("assistant", f"a{n}"), ordinal=n + 1)

    def model(body: dict[str, Any]) -> Said:
        length = len(str(body["messages"]))
        if length <= 4000:
            return Said(("fits",))
        error = f"prompt={length} is not valid: expected 1 to 3999 tokens: the context holds 4000"
        return Said(status=400, error=error)

    door.frontend.model = model
    answer, told = await door.chat([*talk, user("and now?")])

    assert answer["choices"][0]["message"]["content"] == "fits"
    dropped = int(told["x-shepherd-dropped-turns"])
    assert dropped >= 3
    archived = [each for each in door.memory.turns("s") if each["state"] == "archived"]
    questions = sorted(each["messages"][0]["content"][:3] for each in archived)
    assert questions == [f"q{n}?" for n in range(dropped)]
    sent = door.frontend.asked[-1]["messages"]
    assert sent[-2]["name"] == "context_eviction"
    assert sent[:-2] == talk[2 * dropped :]
    await door.stream([*talk, user("and now?"), assistant("fits"), user("so?")])
    assert door.frontend.asked[-1]["messages"][: len(sent)] == sent


async def test_a_prompt_that_cannot_be_made_shorter_is_refused_as_it_was(door: House) -> None:
    error = "prompt=9000 is not valid: expected 1 to 3999 tokens: the context holds 4000"
    door.frontend.model = lambda _: Said(status=400, error=error)
    status, answer, told = await door.post({"messages": [user("long")]}, x_dynamo_session_id="s")

    assert (status, answer["error"]["message"]) == (400, error)
    assert told["x-shepherd-memory"] == "no-room"


@pytest.mark.parametrize("stream", [False, True])
async def test_what_would_fit_without_us_is_answered_without_us(door: House, stream: bool) -> None:
    evicted(door)

    def model(body: dict[str, Any]) -> Said:
        ours = "tools" in body or NOTICE in body["messages"]
        error = "prompt=20 is not valid: expected ...: the context holds 19"
        return Said(status=400, error=error) if ours else Said(("fits",))

    door.frontend.model = model
    answer, told = await (door.stream(TALK) if stream else door.chat(TALK))

    assert "fits" in str(answer)
    assert door.frontend.asked[-1]["messages"] == TALK[-1:]
    assert (told["x-shepherd-memory"], told["x-shepherd-notices"]) == ("no-room", "0")
    metrics = await door.metrics()
    assert metrics['shepherd_gateway_context_overflows_total{outcome="silent"}'] == 1
    assert door.memory.acknowledged == []


async def test_recompute_keeps_turns_until_the_window_is_full() -> None:
    async with house(on_eviction="recompute") as door:
        evicted(door)
        _, told = await door.chat(TALK)

        assert door.frontend.asked[-1]["messages"] == TALK
        assert told["x-shepherd-dropped-turns"] == "0"

        def model(body: dict[str, Any]) -> Said:
            if body["messages"][0] == TALK[0]:
                error = "prompt=20 is not valid: expected ...: the context holds 19"
                return Said(status=400, error=error)
            return Said(("fits",))

        door.frontend.model = model
        _, told = await door.chat(TALK)
        assert told["x-shepherd-dropped-turns"] == "1"


async def test_two_requests_at_once_on_one_session_are_two_branches(door: House) -> None:
    evicted(door)
    branches = [[*TALK[:-1], user(text)] for text in ("three?", "another?")]
    await asyncio.gather(*(door.chat(branch) for branch in branches))

    rendered = sorted((asked["messages"] for asked in door.frontend.asked), key=str)
    assert rendered == sorted(
        ([user("two?"), assistant("2"), NOTICE, branch[-1]] for branch in branches), key=str
    )
    await acknowledged(door.memory, "s-notice-1")
