"""The gateway's hop: what a trace shows of a chat, of its rounds and of the memory's tools."""

from __future__ import annotations

from typing import Any

import pytest

from gateway_house import House, house
from json_log import json_log
from shepherd_gateway.fake import FakeFrontend, FakeMemory, Said
from shepherd_telemetry.fake import KeptSpan, KeptSpans
from shepherd_telemetry.spans import Kind
from shepherd_telemetry.trace_context import TraceContext, parse

CLIENT = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
CANARY = "xylophonequartz"
QUESTION = [{"role": "user", "content": f"what of {CANARY}?"}]


def recalling(body: dict[str, Any]) -> Said:
    if body["messages"][-1]["role"] == "tool":
        return Said(("It is ", CANARY))
    return Said((), (("search_memory", f'{{"query": "{CANARY}"}}'),))


async def ask(door: House, *, stream: bool) -> None:
    body = {"model": "fake", "messages": QUESTION, "stream": stream}
    headers = {"x-dynamo-session-id": "s", "traceparent": CLIENT.traceparent}
    url = f"{door.url}/v1/chat/completions"
    async with door.http.post(url, json=body, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        assert CANARY in await answer.text()


def sent(door: House) -> list[TraceContext | None]:
    """What the frontend was told of the trace."""
    return [parse(headers.get("traceparent")) for headers in door.frontend.headers]


@pytest.mark.parametrize("stream", [False, True])
async def test_each_round_and_each_tool_is_a_span_below_the_request(stream: bool) -> None:
    spans = KeptSpans()
    async with house(frontend=FakeFrontend(recalling), spans=spans) as door:
        await ask(door, stream=stream)
        told = sent(door)

    request, first, tool, second = (
        span for span in spans.kept if span.name in {"POST", "chat", "execute_tool search_memory"}
    )
    names = [each.name for each in (request, first, tool, second)]
    assert names == ["POST", "chat", "execute_tool search_memory", "chat"]
    assert (request.kind, request.parent) == (Kind.SERVER, CLIENT)
    assert [each.parent for each in (first, tool, second)] == [request.context] * 3
    assert [each.kind for each in (first, tool, second)] == [
        Kind.CLIENT,
        Kind.INTERNAL,
        Kind.CLIENT,
    ]
    assert told == [first.context, second.context], "the frontend hangs its own below ours"
    assert first.attributes == {"gen_ai.operation.name": "chat", "gen_ai.request.model": "fake"}
    call_id = tool.attributes.pop("gen_ai.tool.call.id")
    assert isinstance(call_id, str)
    assert call_id
    assert tool.attributes == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "search_memory",
        "gen_ai.tool.type": "function",
        "shepherd.tool.outcome": "ok",
    }
    assert [each.failure for each in (request, first, tool, second)] == [""] * 4
    assert CANARY not in repr(spans.kept)


async def test_without_a_collector_the_clients_trace_goes_through() -> None:
    async with house() as door:
        headers = {"traceparent": CLIENT.traceparent}
        await door.post({"messages": QUESTION}, **headers)

        assert sent(door) == [CLIENT]


async def test_a_model_that_nobody_serves_is_named_in_no_span() -> None:
    spans = KeptSpans()
    async with house(spans=spans, upstream=("http://127.0.0.1:9",)) as door:
        status, _, _ = await door.post({"messages": QUESTION, "model": CANARY})

    (chat,) = (span for span in spans.kept if span.name == "chat")
    assert status == 502
    assert (chat.attributes, chat.failure) == ({"gen_ai.operation.name": "chat"}, "UpstreamError")
    assert all(ended(span) for span in spans.kept)


def ended(span: KeptSpan) -> bool:
    return span.failure is not None


async def test_a_line_of_the_log_names_the_trace_that_it_was_written_for() -> None:
    memory = FakeMemory()
    memory.status = 503
    with json_log() as told:
        async with house(memory=memory) as door:
            headers = {"x_dynamo_session_id": "s", "traceparent": CLIENT.traceparent}
            status, _, _ = await door.post({"messages": QUESTION}, **headers)

    assert status == 200
    lines = [each for each in told if "goes on without memory" in each["message"]]
    assert {each["trace_id"] for each in lines} == {CLIENT.trace_id}
    assert {(each["target"], each["level"]) for each in lines} == {
        ("shepherd_gateway.preparation", "WARN")
    }
    assert CANARY not in repr(told)
