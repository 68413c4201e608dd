"""The responses API on top of chat completions, with OpenAI's own SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from gateway_house import House, house
from shepherd_gateway.fake import Said

TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Rain?",
    "parameters": {"type": "object", "properties": {}},
    "strict": False,
}


@pytest.fixture
async def door() -> AsyncIterator[House]:
    async with house() as opened:
        yield opened


@pytest.fixture
async def client(door: House) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{door.url}/v1", api_key="x", max_retries=0) as opened:
        yield opened


async def test_text_goes_in_and_comes_out(door: House, client: openai.AsyncOpenAI) -> None:
    answer = await client.responses.create(
        model="fake", input="hello", instructions="Be brief.", max_output_tokens=9, store=False
    )

    assert answer.output_text == "Hello there."
    assert answer.status == "completed"
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (10, 2)
    assert answer.usage.input_tokens_details.cached_tokens == 3
    assert door.frontend.asked[0] == {
        "model": "fake",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hello"},
        ],
        "max_tokens": 9,
    }


async def test_calls_and_their_results_are_the_conversation(
    door: House, client: openai.AsyncOpenAI
) -> None:
    door.frontend.model = lambda _: Said(("One moment.",), (("get_weather", "{}"),))
    first = await client.responses.create(model="fake", input="Rain?", tools=[TOOL])
    call = first.output[1]
    assert call.type == "function_call"
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "yes"}
    given: Any = [{"role": "user", "content": "Rain?"}, *first.output, result]
    await client.responses.create(model="fake", input=given, tools=[TOOL])

    said = {"role": "assistant", "content": "One moment."}
    function = {"name": "get_weather", "arguments": "{}"}
    assert door.frontend.asked[1]["messages"] == [
        {"role": "user", "content": "Rain?"},
        said | {"tool_calls": [{"id": "call_0", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "call_0", "content": "yes"},
    ]
    assert door.frontend.asked[1]["tools"][0]["function"]["name"] == "get_weather"


async def test_a_stream_tells_of_every_part_in_order(
    door: House, client: openai.AsyncOpenAI
) -> None:
    door.frontend.model = lambda _: Said(("Hello", " there."), (("get_weather", '{"a":1}'),))
    stream = await client.responses.create(model="fake", input="?", tools=[TOOL], stream=True)
    events = [event async for event in stream]

    assert [event.type.removeprefix("response.") for event in events] == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done"),
        *("output_item.done", "completed"),
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "Hello there."
    assert last.response.usage is not None
    assert last.response.usage.total_tokens == 12


async def test_a_stream_that_breaks_off_has_failed(door: House, client: openai.AsyncOpenAI) -> None:
    door.frontend.model = lambda _: Said(("one ", "two"), error="the engine died", error_after=1)
    stream = await client.responses.create(model="fake", input="?", stream=True)
    events = [event async for event in stream]

    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.message == "the engine died"


async def test_an_answer_that_was_cut_is_incomplete(
    door: House, client: openai.AsyncOpenAI
) -> None:
    door.frontend.model = lambda _: Said(("one",), finish="length")
    answer = await client.responses.create(model="fake", input="?")
    stream = await client.responses.create(model="fake", input="?", stream=True)
    events = [event async for event in stream]

    assert answer.status == "incomplete"
    assert events[-1].type == "response.incomplete"


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"input": [{"type": "computer_call"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0]"),
        ({"input": 7}, "input"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"extra_body": {"wonder": 1}}, "wonder"),
    ],
)
async def test_what_cannot_be_done_is_refused_by_name(
    door: House, client: openai.AsyncOpenAI, asked: dict[str, Any], field: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(**({"model": "fake", "input": "hello"} | asked))

    assert refused.value.param == field
    assert door.frontend.asked == []


async def test_the_chat_sdk_understands_a_refusal_and_a_broken_stream(
    door: House, client: openai.AsyncOpenAI
) -> None:
    door.frontend.model = lambda _: Said(("one ", "two"), error="the engine died", error_after=1)
    stream = await client.chat.completions.create(
        model="fake", messages=[{"role": "user", "content": "?"}], stream=True
    )
    with pytest.raises(openai.APIError, match="the engine died"):
        _ = [chunk async for chunk in stream]
    door.frontend.model = lambda _: Said(status=429, error="retry after 2 s")
    with pytest.raises(openai.RateLimitError) as refused:
        await client.chat.completions.create(
            model="fake", messages=[{"role": "user", "content": "?"}]
        )
    assert refused.value.response.headers["retry-after"] == "2"
