"""One request is followed through frontend, workers and memory; what it said stays out of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from openai_client import eventually
from otlp_receiver import OtlpReceiver, SeenSpan
from shepherd_cli.small_system import MODEL_NAME, Running, start
from shepherd_cli.stack import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
TRACE = "0af7651916cd43dd8448eb211c80319c"
CLIENT_SPAN = "b7ad6b7169203331"
SEARCH_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CANARY = "xylophonequartz"
OF_DYNAMO = ("Warning: OTEL_EXPORT_ENABLED", "SHEPHERD_ENGINE is not a variable of this process")
"""Lines that come before there is a log."""


def question(session: str) -> dict[str, str]:
    """Another for each session: equal ones would share their blocks."""
    return {"role": "user", "content": f"{session}, what do you know of {CANARY}?"}


@dataclass(frozen=True)
class Traced:
    stack: Stack
    running: Running
    collector: OtlpReceiver

    async def ask(self, session: str, trace: str, *before: dict[str, str]) -> dict[str, str]:
        """The answer to a question with `before` as its history."""
        headers = {
            "x-dynamo-session-id": session,
            "traceparent": f"00-{trace}-{CLIENT_SPAN}-01",
        }
        body = {
            "model": MODEL_NAME,
            "messages": [*before, question(session)],
            "max_tokens": 12,
            "temperature": 0,
        }
        url = self.running.frontend.url + "/v1/chat/completions"
        async with self.stack.http.post(url, json=body, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            said: dict[str, str] = (await answer.json())["choices"][0]["message"]
            return {"role": "assistant", "content": said["content"]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def traced(tiny_chat_model: Path, stack: Stack) -> AsyncIterator[Traced]:
    async with OtlpReceiver() as collector:
        stack.env |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORT_ENABLED": "true",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "DYN_LOGGING_JSONL": "true",
            "DYN_LOG": "info",
        }
        yield Traced(stack, await start(stack, tiny_chat_model, num_kv_blocks=14), collector)
        await stack.stop()  # while the collector still listens


def ancestors(span: SeenSpan, spans: list[SeenSpan]) -> list[str]:
    """The ids above a span, the nearest first, the one that nobody sent last."""
    parents = {each.span_id: each.parent_id for each in spans}
    found, at = [], span.parent_id
    while at:
        found.append(at)
        at = parents.get(at, "")
    return found


async def test_a_request_is_one_trace_from_its_client_to_both_workers_and_a_link_to_memory(
    traced: Traced,
) -> None:
    collector = traced.collector
    await traced.ask("followed", TRACE)

    async def arrived() -> bool:
        roles = {
            span.attributes.get("shepherd.worker.role") for span in collector.named("generate")
        }
        recorded = collector.named("record turns", **{"gen_ai.conversation.id": "followed"})
        return roles >= {"prefill", "decode"} and bool(recorded)

    await eventually(arrived)
    generated = {
        span.attributes["shepherd.worker.role"]: span
        for span in collector.named("generate")
        if "shepherd.worker.role" in span.attributes and span.trace_id == TRACE
    }
    (recorded,) = collector.named("record turns", **{"gen_ai.conversation.id": "followed"})
    decode = generated["decode"]

    async def whole() -> bool:
        return all(
            ancestors(span, collector.spans)[-1] == CLIENT_SPAN for span in generated.values()
        )

    await eventually(whole, what="Dynamo's spans between the client's and ours")
    assert generated.keys() == {"prefill", "decode"}
    assert recorded.links == [(TRACE, decode.span_id)]
    assert recorded.trace_id != TRACE, "a link, not a child: the request has ended"
    assert {decode.service, recorded.service} == {"shepherd-worker", "shepherd-memory"}
    assert decode.attributes["gen_ai.conversation.id"] == "followed"
    assert decode.attributes["gen_ai.usage.input_tokens"] > 10
    assert 0 < decode.attributes["gen_ai.usage.output_tokens"] <= 12
    assert decode.attributes["gen_ai.request.model"] == MODEL_NAME
    assert not decode.failed


async def test_a_search_joins_the_trace_of_who_asks_and_names_the_route_only(
    traced: Traced,
) -> None:
    memory = traced.running.memory.url
    for route in ("/v1/search?query=" + CANARY, f"/v1/sessions/{CANARY}/turns"):
        headers = {"traceparent": f"00-{SEARCH_TRACE}-{CLIENT_SPAN}-01"}
        async with traced.stack.http.get(memory + route, headers=headers) as answer:
            status = answer.status

    async def arrived() -> list[SeenSpan]:
        own = [each for each in traced.collector.spans if each.trace_id == SEARCH_TRACE]
        return own if len(own) >= 2 else []

    search, turns = await eventually(arrived)
    assert search.attributes["http.route"] == "/v1/search"
    assert search.attributes["http.response.status_code"] == 200
    assert search.parent_id == CLIENT_SPAN
    assert turns.attributes["http.route"] == "/v1/sessions/{session:path}/turns"
    assert turns.attributes["http.response.status_code"] == status == 404


async def test_what_is_archived_is_linked_to_the_request_that_said_it(traced: Traced) -> None:
    for number in range(8):  # the caches hold fewer
        session, trace = f"full-{number}", f"{number + 1:032x}"
        answer = await traced.ask(session, trace)
        await traced.ask(session, trace, question(session), answer)

    async def archived() -> list[SeenSpan]:
        return [span for span in traced.collector.named("archive turn") if span.links]

    (span, *_) = await eventually(archived)
    ((trace, linked),) = span.links
    spoken = [each for each in traced.collector.named("generate") if each.span_id == linked]
    assert [each.trace_id for each in spoken] == [trace]
    assert (
        spoken[0].attributes["gen_ai.conversation.id"] == span.attributes["gen_ai.conversation.id"]
    )


async def test_every_line_of_our_logs_is_one_json_object_and_nothing_said_is_in_it_or_in_a_span(
    traced: Traced,
) -> None:
    logs = {path.name: path.read_text() for path in traced.stack.run_dir.glob("*.log")}
    for name in ("prefill.log", "decode.log", "memory.log"):
        objects = [json.loads(line) for line in logs[name].splitlines() if line.startswith("{")]
        strange = [line for line in logs[name].splitlines() if not line.startswith("{")]
        assert len(objects) > 5
        assert all(each.keys() >= {"time", "level", "message"} for each in objects)
        assert [line for line in strange if not line.startswith(OF_DYNAMO)] == []
    assert {name for name, text in logs.items() if CANARY in text} == set()
    assert CANARY.encode() not in b"".join(traced.collector.bodies)
