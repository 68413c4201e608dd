"""The fault matrix of the gateway, G1 to G6, over real connections."""

from __future__ import annotations

import asyncio
import io
import time
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest

from gateway_house import House, asked, gateway, house
from openai_client import eventually
from shepherd_cli.chat import server_sent_events
from shepherd_cli.stack import free_port
from shepherd_gateway.fake import FakeFrontend, FakeMemory, Said

QUESTION = {"role": "user", "content": "hello"}


def cut_once(breaks_after: int) -> Any:
    """A model whose first connection is cut."""
    first = iter((True,))

    def model(_: dict[str, Any]) -> Said:
        return Said(("one ", "two"), breaks_after=breaks_after if next(first, False) else None)

    return model


@pytest.mark.parametrize("stream", [False, True])
async def test_g1_what_breaks_before_the_first_byte_is_asked_again(stream: bool) -> None:
    async with house() as door:
        door.frontend.model = cut_once(0)
        if stream:
            events, _ = await door.stream([QUESTION])
            assert [c["delta"].get("content") for e in events for c in e["choices"]][:2] == [
                "one ",
                "two",
            ]
        else:
            answer, _ = await door.chat([QUESTION])
            assert answer["choices"][0]["message"]["content"] == "one two"

        assert len(door.frontend.asked) == 2
        assert (await door.metrics())["shepherd_gateway_upstream_retries_total"] == 1


async def test_g1_a_dead_frontend_is_passed_by_for_another() -> None:
    frontend = FakeFrontend()
    async with AsyncExitStack() as opened:
        alive = await opened.enter_async_context(frontend.served())
        dead = f"http://127.0.0.1:{free_port()}"
        url = await opened.enter_async_context(
            gateway(upstream=(dead, alive), memory="none", http_port=0)
        )
        http = await opened.enter_async_context(aiohttp.ClientSession())
        door = House(url, http, frontend, FakeMemory())
        for _ in range(4):
            await door.chat([QUESTION])

    assert len(frontend.asked) == 4


async def test_g1_what_breaks_after_the_first_byte_is_told_in_the_stream() -> None:
    async with house() as door:
        door.frontend.model = cut_once(1)
        events, _ = await door.stream([QUESTION])

        assert events[0]["choices"][0]["delta"]["content"] == "one "
        assert events[-1]["error"]["message"] == "the answer broke off"
        assert len(door.frontend.asked) == 1
        name = 'shepherd_gateway_upstream_errors_total{reason="broken_off"}'
        assert (await door.metrics())[name] == 1


async def test_g1_an_error_in_the_stream_reaches_the_client() -> None:
    async with house() as door:
        door.frontend.model = lambda _: Said(
            ("one ", "two"), error="the engine died", error_after=1
        )
        events, _ = await door.stream([QUESTION])

        assert events[-1]["error"]["message"] == "the engine died"


async def test_g1_an_error_instead_of_the_first_event_is_a_status() -> None:
    async with house() as door:
        door.frontend.model = lambda _: Said(error="no luck", error_after=0)
        status, answer, _ = await door.post({"messages": [QUESTION], "stream": True})

        assert (status, answer["error"]["message"]) == (500, "no luck")


async def test_g1_nobody_upstream_is_a_502_and_not_healthy() -> None:
    async with (
        gateway(upstream=(f"http://127.0.0.1:{free_port()}",), memory="none", http_port=0) as url,
        aiohttp.ClientSession() as http,
    ):
        door = House(url, http, FakeFrontend(), FakeMemory())
        status, answer, _ = await door.post({"messages": [QUESTION]})
        assert status == 502
        assert answer["error"]["type"] == "server_error"
        async with http.get(f"{url}/health") as health:
            assert health.status == 503
            assert (await health.json())["upstream"] == "unreachable"
        async with http.get(f"{url}/live") as live:
            assert live.status == 200


async def test_a_full_worker_says_when_to_come_back() -> None:
    error = "9 requests are waiting, the limit is 8: retry after 3 s"
    async with house() as door:
        door.frontend.model = lambda _: Said(status=429, error=error)
        status, answer, headers = await door.post({"messages": [QUESTION]})

        assert (status, answer["error"]["message"]) == (429, error)
        assert headers["retry-after"] == "3"
        assert len(door.frontend.asked) == 1


async def test_a_frontend_without_workers_is_asked_twice_and_then_told() -> None:
    async with house() as door:
        door.frontend.model = lambda _: Said(status=503, error="not ready to serve")
        status, _, headers = await door.post({"messages": [QUESTION]})

        assert (status, headers["retry-after"], len(door.frontend.asked)) == (503, "1", 2)


async def test_g2_a_slow_memory_costs_no_more_than_its_time_and_then_nothing() -> None:
    async with house(memory_timeout_s=0.1) as door:
        door.memory.delay_s = 5.0
        told = [(await door.chat([QUESTION]))[1]["x-shepherd-memory"] for _ in range(3)]
        began = time.monotonic()
        _, headers = await door.chat([QUESTION])

        assert told == ["degraded"] * 3
        assert headers["x-shepherd-memory"] == "degraded"
        assert time.monotonic() - began < 5
        assert len(door.memory.asked) == 3  # the breaker opened; nobody was asked again
        assert (await door.metrics())['shepherd_gateway_memory_failures_total{call="view"}'] == 4
        async with door.http.get(f"{door.url}/health") as health:
            assert (health.status, (await health.json())["memory"]) == (200, "degraded")


async def test_g2_what_was_archived_stays_dropped_while_the_memory_is_down() -> None:
    async with house() as door:
        talk = [QUESTION, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "?"}]
        first = door.memory.hear("s", ("user", "hello"), ("assistant", "hi"))
        door.memory.evict("s", first)
        await door.chat(talk)
        door.memory.status = 503
        _, told = await door.chat(talk)

        assert told["x-shepherd-memory"] == "degraded"
        before, after = (asked["messages"] for asked in door.frontend.asked)
        assert before == after
        assert len(after) == 2


@pytest.mark.parametrize("status", [401, 403, 429, 500])
async def test_g2_a_memory_that_refuses_us_is_as_one_that_is_down(status: int) -> None:
    async with house() as door:
        door.memory.status = status
        _, told = await door.chat([QUESTION])

        assert told["x-shepherd-memory"] == "degraded"


async def test_g2_a_search_that_fails_is_told_to_the_model() -> None:
    async with house() as door:

        def model(body: dict[str, Any]) -> Said:
            if body["messages"][-1]["role"] == "tool":
                return Said(("I cannot look.",))
            door.memory.status = 500
            return Said((), (("search_memory", '{"query": "x"}'),))

        door.frontend.model = model
        _, told = await door.chat([QUESTION])

        assert told["x-shepherd-memory"] == "degraded"
        result = door.frontend.asked[1]["messages"][-1]["content"]
        assert result.startswith("Error: long-term memory cannot be reached")


def finds_too_much(door: House) -> None:
    """The model looks something up; there is room for what one result says only."""
    door.memory.results["x"] = "long"

    def model(body: dict[str, Any]) -> Said:
        if body["messages"][-1]["role"] != "tool":
            return Said((), (("search_memory", '{"query": "x"}'),))
        if len(door.frontend.asked) < 6:
            return Said(status=400, error="prompt=20 is not valid: the context holds 9")
        return Said(("found",))

    door.frontend.model = model


async def test_g3_results_that_the_window_has_no_room_for_are_made_fewer() -> None:
    async with house() as door:
        finds_too_much(door)
        answer, _ = await door.chat([QUESTION])

        assert answer["choices"][0]["message"]["content"] == "found"
        assert [arguments.get("max_results") for arguments in door.memory.arguments] == [None, 2, 1]


@pytest.mark.parametrize("shown", ["true", "false"])
async def test_g3_they_are_made_fewer_in_a_stream_too_and_shown_once(shown: str) -> None:
    async with house() as door:
        finds_too_much(door)
        body = {"model": "fake", "messages": [QUESTION], "stream": True}
        headers = {"x-dynamo-session-id": "s", "x-shepherd-show-recall": shown}
        url = f"{door.url}/v1/chat/completions"
        async with door.http.post(url, json=body, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            events = [event async for event in server_sent_events(answer.content)]

        assert not any("error" in event for event in events)
        deltas = [choice["delta"] for event in events for choice in event["choices"]]
        assert "".join(delta.get("content") or "" for delta in deltas) == "found"
        looked_up = [d["reasoning_content"] for d in deltas if d.get("reasoning_content")]
        assert looked_up == (['search_memory({"query": "x"})\n'] if shown == "true" else [])
        assert [arguments.get("max_results") for arguments in door.memory.arguments] == [None, 2, 1]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_stops_the_generation_at_once(stream: bool) -> None:
    async with house() as door:
        door.frontend.model = lambda _: Said(("one ", "two"), pause=asyncio.Event())
        body = {"model": "fake", "messages": [QUESTION], "stream": stream}
        asking = asyncio.ensure_future(_read_for_ever(door, body))
        await asked(door.frontend, 1)
        asking.cancel()
        async with asyncio.timeout(10):
            await door.frontend.left.wait()

        async def empty() -> bool:
            return not (await door.metrics())["shepherd_gateway_requests_in_progress"]

        await eventually(empty)

        assert (await door.metrics())["shepherd_gateway_client_disconnects_total"] == 1


async def _read_for_ever(door: House, body: dict[str, Any]) -> None:
    headers = {"x-dynamo-session-id": "s"}
    url = f"{door.url}/v1/chat/completions"
    async with door.http.post(url, json=body, headers=headers) as answer:
        async for _ in server_sent_events(answer.content):
            pass


async def test_g5_one_request_too_many_is_refused_and_the_others_go_on() -> None:
    async with house(max_concurrent=2) as door:
        pause = asyncio.Event()
        door.frontend.model = lambda _: Said(("one ", "two"), pause=pause)
        running = [asyncio.ensure_future(door.chat([QUESTION])) for _ in range(2)]
        await asked(door.frontend, 2)
        status, answer, headers = await door.post({"messages": [QUESTION]})
        pause.set()

        assert (status, answer["error"]["type"]) == (429, "rate_limit_error")
        assert headers["retry-after"] == "1"
        assert [told["x-shepherd-memory"] for _, told in await asyncio.gather(*running)] == [
            "ok",
            "ok",
        ]


async def test_g5_what_is_too_large_or_unreadable_is_refused() -> None:
    async with house(max_body_mb=1) as door:
        url = f"{door.url}/v1/chat/completions"
        for data, status in (
            (b"x" * (1 << 20) + b"x", 413),
            (b'{"model": "\xff"}', 400),
            (b"{", 400),
            (b"[]", 400),
            (b"[" * 100_000, 400),
            (b'{"a":' + b"[" * 100 + b"]" * 100 + b"}", 400),
        ):
            async with door.http.post(url, data=io.BytesIO(data)) as answer:
                assert answer.status == status, data[:20]
        async with door.http.get(f"{door.url}/live", headers={"x": "y" * 200_000}) as answer:
            assert answer.status in {400, 431}, "h11 refuses them in pieces, we when they are whole"
        assert door.frontend.asked == []
        await door.chat([QUESTION])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"messages": [QUESTION], "model": ""}, "model"),
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [QUESTION, {"role": "robot"}]}, "messages[1].role"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [QUESTION], "stream": "yes"}, "stream"),
        ({"messages": [QUESTION], "tools": {}}, "tools"),
        ({"messages": [QUESTION], "metadata": {"session_id": "a b"}}, "metadata.session_id"),
        ({"messages": [QUESTION] * 5}, "messages"),
    ],
)
async def test_a_wrong_request_names_its_field(body: dict[str, Any], field: str) -> None:
    async with house(max_messages=4) as door:
        status, answer, _ = await door.post(body)

        assert (status, answer["error"]["param"]) == (400, field)
        assert answer["error"]["type"] == "invalid_request_error"
        assert door.frontend.asked == []


async def test_g5_a_slow_reader_holds_nobody_else_up() -> None:
    async with house() as door:
        door.frontend.model = lambda body: Said(("word " * 1000,) * (400 if body["stream"] else 1))
        body = {"model": "fake", "messages": [QUESTION], "stream": True}
        async with door.http.post(f"{door.url}/v1/chat/completions", json=body) as slow:
            await slow.content.readany()
            answer, _ = await door.chat([QUESTION], stream=False)

            assert answer["choices"]


async def test_g6_after_a_restart_the_same_prefix_is_sent() -> None:
    frontend, memory = FakeFrontend(), FakeMemory()
    first = memory.hear("s", ("user", "one?"), ("assistant", "1"))
    memory.hear("s", ("user", "two?"), ("assistant", "2"))
    memory.evict("s", first)
    talk = [
        *({"role": "user", "content": "one?"}, {"role": "assistant", "content": "1"}),
        *({"role": "user", "content": "two?"}, {"role": "assistant", "content": "2"}),
        {"role": "user", "content": "three?"},
    ]
    async with house(frontend=frontend, memory=memory) as door:
        await door.chat(talk)
    memory.hear("s", ("user", "three?"), ("assistant", "3"))
    talk += [{"role": "assistant", "content": "3"}, {"role": "user", "content": "four?"}]
    async with house(frontend=frontend, memory=memory) as door:
        await door.chat(talk)

    before, after = (asked["messages"] for asked in frontend.asked)
    assert after[: len(before)] == before


async def test_g6_running_answers_may_end_when_the_gateway_stops() -> None:
    frontend, pause = FakeFrontend(), asyncio.Event()
    frontend.model = lambda _: Said(("one ", "two"), pause=pause)
    async with AsyncExitStack() as opened:
        upstream = await opened.enter_async_context(frontend.served())
        http = await opened.enter_async_context(aiohttp.ClientSession())
        async with gateway(
            upstream=(upstream,), memory="none", http_port=0, drain_timeout_s=10
        ) as url:
            door = House(url, http, frontend, FakeMemory())
            running = asyncio.ensure_future(door.stream([QUESTION]))
            await asked(frontend, 1)
            asyncio.get_running_loop().call_later(0.3, pause.set)
        events, _ = await running

    assert "".join(c["delta"].get("content", "") for e in events for c in e["choices"]) == "one two"


async def test_a_long_history_goes_through() -> None:
    async with house() as door:
        long = [{"role": "user", "content": "word " * 500_000}]
        answer, _ = await door.chat(long)

        assert answer["choices"]
        assert door.frontend.asked[0]["messages"] == long
