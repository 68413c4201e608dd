"""What each role does with Dynamo's dictionaries, over the fake engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from chat_models import model
from shepherd_worker.attribution import Attributor, SessionOrigin
from shepherd_worker.config import Role
from shepherd_worker.engine.fake import FakeEngine
from shepherd_worker.engine.protocol import EngineConfig, SequenceFinished
from shepherd_worker.errors import InvalidRequestError
from shepherd_worker.handlers import Handler, Intake, create_handler
from shepherd_worker.inflight import InFlight
from shepherd_worker.telemetry import RequestMetrics

PROMPT = list(range(1, 50))


class Context:
    def __init__(self, request_id: str = "id") -> None:
        self._id = request_id
        self.left = asyncio.Event()

    def id(self) -> str:
        return self._id

    async def async_killed_or_stopped(self) -> bool:
        await self.left.wait()
        return True


@asynccontextmanager
async def worker(role: Role) -> AsyncIterator[tuple[Handler, FakeEngine, CollectorRegistry]]:
    engine = FakeEngine(EngineConfig(model="", num_kv_blocks=64))
    await engine.start()
    registry = CollectorRegistry()
    intake = Intake(
        engine=engine,
        attributor=Attributor(model("chatml").reader),
        inflight=InFlight(),
        metrics=RequestMetrics(registry),
    )
    try:
        yield create_handler(role, intake), engine, registry
    finally:
        await engine.close()


def request(**more: Any) -> dict[str, Any]:
    return {
        "token_ids": PROMPT,
        "stop_conditions": {"max_tokens": 8, "ignore_eos": True},
        "sampling_options": {"temperature": 0.0},
        **more,
    }


async def chunks(handler: Handler, asked: dict[str, Any]) -> list[dict[str, Any]]:
    return [chunk async for chunk in handler.generate(asked, Context())]


def tokens(answer: list[dict[str, Any]]) -> list[int]:
    return [token for chunk in answer for token in chunk["token_ids"]]


async def test_an_aggregated_worker_streams_tokens_and_ends_with_reason_and_usage() -> None:
    async with worker(Role.AGGREGATED) as (handler, _, registry):
        answer = await chunks(handler, request())

    assert len(tokens(answer)) == 8
    assert [("finish_reason" in chunk) for chunk in answer].count(True) == 1
    assert answer[-1]["finish_reason"] == "length"
    assert answer[-1]["completion_usage"]["total_tokens"] == len(PROMPT) + 8
    assert registry.get_sample_value("shepherd_worker_requests_total", {"outcome": "ok"}) == 1


async def test_decode_with_prefills_handoff_says_what_an_aggregated_worker_says() -> None:
    async with (
        worker(Role.AGGREGATED) as (aggregated, _, _),
        worker(Role.PREFILL) as (prefill, _, _),
        worker(Role.DECODE) as (decode, engine, _),
    ):
        whole = await chunks(aggregated, request())
        (first,) = await chunks(prefill, request())
        handoff = {"disaggregated_params": first["disaggregated_params"]}
        rest = await chunks(decode, request(prefill_result=handoff))
        stats = engine.stats()

    assert first["token_ids"] == tokens(whole)[:1]
    assert tokens(rest) == tokens(whole)
    assert stats.prompt_tokens_transferred_total == 48
    assert stats.transfer_failures_total == 0


@pytest.mark.parametrize(
    "prefill_result",
    [
        None,
        {"disaggregated_params": None},
        {"disaggregated_params": {"kv_handle": "of another kind"}},
    ],
    ids=["none", "empty", "foreign"],
)
async def test_decode_computes_a_prompt_that_nobody_handed_over(
    prefill_result: dict[str, Any] | None,
) -> None:
    async with (
        worker(Role.AGGREGATED) as (aggregated, _, _),
        worker(Role.DECODE) as (decode, _, _),
    ):
        whole = await chunks(aggregated, request())
        answer = await chunks(decode, request(prefill_result=prefill_result))

    assert tokens(answer) == tokens(whole)


async def test_decode_reports_the_cached_tokens_that_the_prefill_worker_found() -> None:
    async with worker(Role.DECODE) as (decode, _, _):
        result = {"prompt_tokens_details": {"cached_tokens": 32}}
        answer = await chunks(decode, request(prefill_result=result))

    usage = answer[-1]["completion_usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 32}


async def test_probes_are_counted_apart_and_one_that_nobody_waited_for_has_failed() -> None:
    async with worker(Role.AGGREGATED) as (aggregated, _, registry):
        await chunks(aggregated, request(_HEALTH_CHECK=True))
        given_up = aggregated.generate(request(_HEALTH_CHECK=True), Context())
        await anext(given_up)
        await given_up.aclose()  # type: ignore[attr-defined]
        await chunks(aggregated, request())

        def count(name: str, outcome: str) -> float | None:
            name = f"shepherd_worker_{name}_total"
            return registry.get_sample_value(name, {"outcome": outcome})

        assert [count("canaries", each) for each in ("ok", "failed")] == [1, 1]
        assert [count("requests", each) for each in ("ok", "cancelled")] == [1, 0]


async def test_a_health_probe_of_a_prefill_worker_leases_nothing_and_has_no_origin() -> None:
    async with worker(Role.PREFILL) as (prefill, engine, _):
        answer = await chunks(prefill, request(_HEALTH_CHECK=True))
        leases = engine.stats().leases
        events = [event async for batch in _until_finished(engine) for event in batch]

    assert answer[-1]["finish_reason"] == "length"
    assert leases == 0
    assert [e.origin for e in events if isinstance(e, SequenceFinished)] == [None]


async def test_bad_input_is_rejected_counted_and_leaves_no_sequence() -> None:
    async with worker(Role.AGGREGATED) as (handler, engine, registry):
        with pytest.raises(InvalidRequestError, match="max_tokens=0"):
            await chunks(handler, request(stop_conditions={"max_tokens": 0}))

        assert engine.stats().num_running == 0
        with pytest.raises(InvalidRequestError, match="best_of=1"):
            await chunks(handler, request(sampling_options={"n": 2, "best_of": 1}))

        rejected = {"outcome": "rejected"}
        assert registry.get_sample_value("shepherd_worker_requests_total", rejected) == 2


async def test_a_client_that_leaves_in_the_middle_is_counted_as_cancelled() -> None:
    context = Context()
    async with worker(Role.AGGREGATED) as (handler, engine, registry):
        answer = handler.generate(request(stop_conditions={"max_tokens": 900}), context)
        first = await anext(aiter(answer))
        context.left.set()
        rest = [chunk async for chunk in answer]

        assert "finish_reason" not in first
        assert all("finish_reason" not in chunk for chunk in rest)
        cancelled = {"outcome": "cancelled"}
        assert registry.get_sample_value("shepherd_worker_requests_total", cancelled) == 1
        await engine.drain()
        assert engine.stats().blocks_referenced == 0


async def test_the_origin_names_tenant_session_and_turn() -> None:
    said = (("user", "one"), ("assistant", "two"), ("user", "three"))
    prompt = model("chatml").tokens(*said, answer=True)
    asked = request(
        token_ids=list(prompt),
        agent_context={"session_id": "s", "parent_session_id": "p", "session_final": True},
        routing={"cache_salt": "secret"},
    )
    async with worker(Role.AGGREGATED) as (handler, engine, _):
        await chunks(handler, asked)
        events = [event async for batch in _until_finished(engine) for event in batch]

    (finished,) = [event for event in events if isinstance(event, SequenceFinished)]
    assert isinstance(finished.origin, SessionOrigin)
    assert (finished.origin.session_id, finished.origin.turn) == ("s", 2)
    assert (finished.origin.parent_session_id, finished.origin.session_final) == ("p", True)
    assert finished.origin.tenant not in {"", "local", "secret"}
    assert finished.context.cache_salt_id.hex() == finished.origin.tenant


async def test_a_request_may_say_which_turn_it_is() -> None:
    prompt = model("chatml").tokens(("user", "three"), answer=True)
    asked = request(
        token_ids=list(prompt),
        agent_context={"session_id": "s"},
        annotations=["query_instance_id", "session_turn:3"],
    )
    async with worker(Role.AGGREGATED) as (handler, engine, _):
        await chunks(handler, asked)
        events = [event async for batch in _until_finished(engine) for event in batch]

    (finished,) = [event for event in events if isinstance(event, SequenceFinished)]
    assert isinstance(finished.origin, SessionOrigin)
    assert (finished.origin.turn, finished.origin.turn_is_given) == (3, True)


@pytest.mark.parametrize("number", ["", "0", "-1", "x", "\u0663", "4294967296", "9" * 5000])
async def test_a_turn_that_is_no_number_is_refused(number: str) -> None:
    async with worker(Role.AGGREGATED) as (handler, _, _):
        with pytest.raises(InvalidRequestError, match=r"session_turn=.* from 1 to 4294967295"):
            await chunks(handler, request(annotations=[f"session_turn:{number}"]))


async def _until_finished(engine: FakeEngine) -> AsyncIterator[tuple[Any, ...]]:
    async for batch in engine.cache_events():
        yield batch
        if any(isinstance(event, SequenceFinished) for event in batch):
            return
