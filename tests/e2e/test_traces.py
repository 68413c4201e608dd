"""One request is followed from a client through gateway, frontend, workers and memory.

What it said stays out of its trace.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

import openai
import pytest
import pytest_asyncio
from openai.types.chat import ChatCompletionMessageParam

from openai_client import eventually
from otlp_receiver import OtlpReceiver, SeenSpan
from shepherd_cli.small_system import MODEL_NAME, Running, start
from shepherd_cli.stack import Stack
from shepherd_tiny_chat import MODEL_DIR

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
TRACE = "0af7651916cd43dd8448eb211c80319c"
CLIENT_SPAN = "b7ad6b7169203331"
TOLD_TRACE = "1af7651916cd43dd8448eb211c80319c"
THANKS_TRACE = "2af7651916cd43dd8448eb211c80319c"
RECALL_TRACE = "3af7651916cd43dd8448eb211c80319c"
PREFILL = {"shepherd.worker.role": "prefill"}
DECODE = {"shepherd.worker.role": "decode"}
NUM_KV_BLOCKS = 64
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
    client: openai.AsyncOpenAI
    """Of the gateway."""

    async def say(self, trace: str, talk: list[ChatCompletionMessageParam], text: str) -> str:
        """Ask through the gateway, streamed, under a trace of the client's own; the answer."""
        talk.append({"role": "user", "content": text})
        headers = {
            "x-dynamo-session-id": "story",
            "traceparent": f"00-{trace}-{CLIENT_SPAN}-01",
        }
        stream = await self.client.chat.completions.create(
            model=MODEL_NAME,
            messages=talk,
            temperature=0,
            max_tokens=64,
            stream=True,
            extra_headers=headers,
        )
        pieces = [chunk.choices[0].delta.content async for chunk in stream if chunk.choices]
        answer = "".join(piece or "" for piece in pieces)
        talk.append({"role": "assistant", "content": answer})
        return answer

    async def archived(self, session: str) -> list[SeenSpan]:
        """After more conversations than the caches hold."""
        for number in range(8):
            words = " ".join(
                f"{CANARY} {session} {len(self.collector.spans)} {n}" for n in range(40)
            )
            await self.ask(
                f"filler-{number}", f"{number + 1:032x}", {"role": "user", "content": words}
            )
        own = {"gen_ai.conversation.id": session}
        return [span for span in self.collector.named("archive turn", **own) if span.links]

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
async def traced(stack: Stack) -> AsyncIterator[Traced]:
    async with OtlpReceiver() as collector:
        stack.env |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORT_ENABLED": "true",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "DYN_LOGGING_JSONL": "true",
            "DYN_LOG": "info",
        }
        running = await start(stack, MODEL_DIR, num_kv_blocks=NUM_KV_BLOCKS)
        async with openai.AsyncOpenAI(
            base_url=f"{running.gateway.url}/v1", api_key="none", max_retries=0
        ) as client:
            yield Traced(stack, running, collector, client)
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


async def test_a_recall_is_followed_from_the_client_to_both_workers_the_tool_and_the_archive(
    traced: Traced,
) -> None:
    collector, talk = traced.collector, list[ChatCompletionMessageParam]()
    await traced.say(TOLD_TRACE, talk, "My dog is called Biscuit.")
    await traced.say(THANKS_TRACE, talk, "Thank you.")
    (archived, *_) = await eventually(partial(traced.archived, "story"), timeout_s=60)
    assert "Biscuit" in await traced.say(RECALL_TRACE, talk, "What is my dog called?")

    def of(name: str, **attributes: str) -> list[SeenSpan]:
        found = [each for each in collector.named(name, **attributes) if not each.failed]
        return [each for each in found if each.trace_id == RECALL_TRACE]

    def below(above: SeenSpan, found: list[SeenSpan]) -> list[str]:
        return [each.span_id for each in found if above.span_id in ancestors(each, collector.spans)]

    async def whole() -> bool:
        """Both rounds, with both workers and what is above them; a guess given up is neither."""
        asked = [each for each in of("POST") if each.service == "shepherd-gateway"]
        return (len(asked), len(of("chat")), len(of("kv_transfer"))) == (1, 2, 2) and all(
            len(below(chat, of("generate", **role))) == 1
            for chat in of("chat")
            for role in (PREFILL, DECODE)
        )

    await eventually(whole, what="two rounds of prefill and decode, and all that is above them")
    first, second = of("chat")
    (tool,) = of("execute_tool search_memory")
    (request,) = (each for each in of("POST") if each.service == "shepherd-gateway")
    (searched,) = (each for each in of("POST") if each.parent_id == tool.span_id)
    assert request.parent_id == CLIENT_SPAN
    assert [each.parent_id for each in (first, tool, second)] == [request.span_id] * 3
    assert searched.service == "shepherd-memory"
    assert searched.attributes["http.route"] == "/v1/tools/{name}"
    assert ancestors(first, collector.spans) == [request.span_id, CLIENT_SPAN]
    for chat in (first, second):
        (prefill,), (decode,) = (below(chat, of("generate", **role)) for role in (PREFILL, DECODE))
        (transfer,) = (each for each in of("kv_transfer") if each.parent_id == decode)
        assert transfer.links == [(RECALL_TRACE, prefill)]
        assert transfer.attributes["shepherd.kv.bytes"] > 0

    ((trace, linked),) = archived.links
    said = [each for each in collector.named("generate", **DECODE) if each.span_id == linked]
    assert trace == TOLD_TRACE
    assert [each.trace_id for each in said] == [TOLD_TRACE]
    assert archived.trace_id != TOLD_TRACE, "a link, not a child: the request has long ended"


async def test_every_line_of_our_logs_is_one_json_object_and_nothing_said_is_in_it_or_in_a_span(
    traced: Traced,
) -> None:
    logs = {path.name: path.read_text() for path in traced.stack.run_dir.glob("*.log")}
    for name in ("prefill.log", "decode.log", "memory.log", "gateway.log"):
        objects = [json.loads(line) for line in logs[name].splitlines() if line.startswith("{")]
        strange = [line for line in logs[name].splitlines() if not line.startswith("{")]
        assert len(objects) >= 1
        assert all(each.keys() >= {"time", "level", "message"} for each in objects)
        assert [line for line in strange if not line.startswith(OF_DYNAMO)] == []
    assert {name for name, text in logs.items() if CANARY in text} == set()
    for said in (CANARY, "Biscuit"):
        assert said.encode() not in b"".join(traced.collector.bodies)
