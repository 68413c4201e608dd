"""Disaggregated parameters over the wire, between versions, and when they are no use."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from engine_calls import Answer, ask, config, replay, request, started, until
from shepherd_worker.attribution import Attributor
from shepherd_worker.config import Role
from shepherd_worker.engine import create_engine
from shepherd_worker.engine.protocol import Engine, EngineConfig, Handoff
from shepherd_worker.engine.trtllm.engine import TrtllmEngine
from shepherd_worker.engine.trtllm.handoff import HandoffError, RequestIds, from_wire, to_wire
from shepherd_worker.engine.trtllm.leases import Leases
from shepherd_worker.engine.trtllm.library import Library, load_library
from shepherd_worker.handlers import Intake, create_handler
from shepherd_worker.inflight import InFlight
from shepherd_worker.request import FinishReason, Usage
from shepherd_worker.telemetry import RequestMetrics
from shepherd_worker.wire import parse_handoff, render_handoff
from trtllm_fake import VERSIONS, use_fake_trtllm

PROMPT = range(10, 27)
MODEL = b"\x01" * 32


def library(version: str) -> Library:
    use_fake_trtllm(version)
    return load_library()


def disaggregated(**limits: Any) -> EngineConfig:
    return config(disaggregated=True, **limits)


def engine(**limits: Any) -> Engine:
    use_fake_trtllm()
    return create_engine("trtllm", disaggregated(**limits))


async def aggregated() -> Answer:
    use_fake_trtllm()
    whole = create_engine("trtllm", config())
    async with started(whole):
        return await ask(whole, request(PROMPT))


@pytest.mark.parametrize("version", VERSIONS)
def test_parameters_come_back_as_they_went_except_what_is_not_for_decode(version: str) -> None:
    lib = library(version)
    sent = lib.DisaggregatedParams(
        request_type="context_only",
        first_gen_tokens=[5],
        ctx_request_id=7,
        opaque_state=b"\x00\xffstate",
        draft_tokens=[1, 2],
        multimodal_embedding_handles=[{"handle": 1}],
    )
    result = SimpleNamespace(
        outputs=[SimpleNamespace(disaggregated_params=sent)], disaggregated_params=None
    )
    wire = json.loads(json.dumps(to_wire(result, MODEL)))
    received = from_wire(lib, wire, MODEL)

    assert received.request_type == "generation_only"
    assert received.opaque_state == b"\x00\xffstate"
    assert (received.first_gen_tokens, received.ctx_request_id) == ([5], 7)
    assert (received.draft_tokens, received.multimodal_embedding_handles) == ([1, 2], None)


def test_log_probabilities_are_objects_again_and_tensors_stay_behind() -> None:
    lib = library("1.3.0rc26")
    sent = lib.DisaggregatedParams(
        opaque_state=b"s",
        first_gen_log_probs=[{5: lib.Logprob(-0.5, 1)}],
        first_gen_logits=object(),
    )
    result = SimpleNamespace(
        outputs=[SimpleNamespace(disaggregated_params=sent)], disaggregated_params=None
    )
    wire = json.loads(json.dumps(to_wire(result, MODEL)))
    received = from_wire(lib, wire, MODEL)

    assert received.first_gen_log_probs[0][5].logprob == -0.5
    assert received.first_gen_logits is None


def test_fields_of_a_newer_prefill_worker_are_dropped_and_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wire = {"model_fingerprint": MODEL.hex(), "opaque_state": "cw==", "conversation_id": "c"}
    with caplog.at_level(logging.WARNING):
        received = from_wire(library("1.2.0"), wire, MODEL)

    assert received.opaque_state == b"s"
    assert "no conversation_id for DisaggregatedParams: dropped" in caplog.text


@pytest.mark.parametrize(
    "wire",
    [
        {},
        {"model_fingerprint": "00"},
        {"model_fingerprint": MODEL.hex()},
        {"model_fingerprint": MODEL.hex(), "opaque_state": "not base64!"},
        {"model_fingerprint": MODEL.hex(), "opaque_state": 3},
    ],
)
def test_parameters_that_are_no_use_are_told_apart(wire: dict[str, Any]) -> None:
    with pytest.raises(HandoffError):
        from_wire(library("1.3.0rc20"), wire, MODEL)


@pytest.mark.parametrize("version", VERSIONS)
def test_transfers_are_numbered_as_the_version_wants_it(version: str) -> None:
    ids = RequestIds(library(version))
    numbers = {ids.next() for _ in range(50)}

    assert len(numbers) == 50
    assert all(isinstance(number, int) and number >= 2**40 for number in numbers)


async def test_a_decode_worker_answers_as_an_aggregated_one_from_kv_that_was_moved() -> None:
    prefill, decode = engine(), engine()
    async with started(prefill), started(decode):
        result = await prefill.prefill(request(PROMPT))
        handoff = parse_handoff(json.loads(json.dumps(render_handoff(result.handoff))))
        answer = await ask(decode, request(PROMPT), handoff)
        whole = await aggregated()

        assert result.chunk.token_ids == tuple(whole.token_ids[:1])
        assert (result.chunk.finish_reason, result.chunk.usage) == (None, Usage(17, 0, 1))
        assert answer == whole
        assert decode.stats().transfer_failures_total == 0
        assert decode.stats().prompt_tokens_transferred_total == 17
        await until(lambda: prefill.stats().leases == 0)
        assert prefill.stats().leases_expired_total == 0


async def test_a_drain_ends_when_the_prompt_was_fetched_and_not_with_its_time() -> None:
    prefill, decode = engine(transfer_lease_s=600), engine()
    async with started(prefill), started(decode):
        handoff = (await prefill.prefill(request(PROMPT))).handoff
        draining = asyncio.create_task(prefill.drain())
        await asyncio.sleep(0)
        assert (prefill.stats().leases, draining.done()) == (1, False)

        await ask(decode, request(PROMPT), handoff)
        async with asyncio.timeout(10):
            await draining


async def test_leases_end_together_once_their_blocks_were_seen_held_and_are_not() -> None:
    ended: list[int] = []
    leases = Leases(60, lambda: ended.append(len(leases)))
    leases.lease()
    leases.used(num_used=0, num_calls=0)  # an iteration of before
    assert len(leases) == 1
    leases.used(num_used=4, num_calls=0)
    leases.lease()  # of an iteration that was told already
    leases.used(num_used=0, num_calls=1)  # its own blocks are not yet in use
    assert (len(leases), ended) == (2, [])

    leases.used(num_used=0, num_calls=0)
    assert (len(leases), ended, leases.expired_total) == (0, [0], 0)


async def test_a_probe_of_either_role_runs_both_phases_and_leaves_no_lease() -> None:
    """As Dynamo's own worker asks for it: `context_and_generation`."""
    asked: list[Any] = []
    for role in (Role.PREFILL, Role.DECODE):
        serving = engine()
        async with started(serving):
            assert isinstance(serving, TrtllmEngine)
            assert serving._started is not None
            submit = serving._started.llm.generate_async

            def spy(*args: Any, **kwargs: Any) -> Any:
                asked.append(kwargs["disaggregated_params"])
                return submit(*args, **kwargs)  # noqa: B023 - called within the iteration

            serving._started.llm.generate_async = spy
            intake = Intake(
                engine=serving,
                attributor=Attributor(None),
                inflight=InFlight(),
                metrics=RequestMetrics(CollectorRegistry()),
            )
            probe = {
                "token_ids": [1],
                "stop_conditions": {"max_tokens": 1, "ignore_eos": True},
                "_HEALTH_CHECK": True,
            }
            answer = [
                chunk async for chunk in create_handler(role, intake).generate(probe, Probe())
            ]
            assert answer[-1]["finish_reason"] == "length"
            assert (len(answer[-1]["token_ids"]), serving.stats().leases) == (1, 0)

    assert [params.request_type for params in asked] == ["context_and_generation"] * 2


class Probe:
    """The context of a probe, which nobody gives up."""

    def id(self) -> str:
        return "probe"

    async def async_killed_or_stopped(self) -> bool:
        await asyncio.Event().wait()
        return True


async def test_an_answer_of_one_token_is_complete_with_its_prefill() -> None:
    prefill = engine()
    async with started(prefill):
        result = await prefill.prefill(request(PROMPT, 1))

        assert result.chunk.finish_reason is FinishReason.LENGTH


FAULTS = {
    "another engine's": lambda handoff: replace(handoff, engine="torch", own={}),
    "another model": lambda handoff: replace(
        handoff, own=handoff.own | {"model_fingerprint": "00"}
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_handoff_that_is_wrong_is_computed_instead(fault: str) -> None:
    prefill, decode = engine(), engine()
    async with started(prefill), started(decode):
        result = await prefill.prefill(request(PROMPT))
        answer = await ask(decode, request(PROMPT), FAULTS[fault](result.handoff))

        assert answer == await aggregated()
        assert decode.stats().transfer_failures_total == 1
        assert decode.is_healthy()


async def test_a_prefill_worker_that_is_gone_is_computed_for() -> None:
    prefill, decode = engine(), engine(kv_transfer="tcp")
    async with started(prefill), started(decode):
        handoff: Handoff = (await prefill.prefill(request(PROMPT))).handoff
        await prefill.close()
        answer = await ask(decode, request(PROMPT), handoff)

        assert answer.token_ids == (await aggregated()).token_ids
        assert decode.stats().transfer_failures_total == 1


async def test_a_handoff_is_counted_until_its_blocks_may_be_gone() -> None:
    prefill = engine(transfer_lease_s=0.05)
    info = await prefill.start()
    await prefill.prefill(request(PROMPT))
    assert prefill.stats().leases == 1
    async with asyncio.timeout(5):
        await prefill.drain()

    assert (prefill.stats().leases, prefill.stats().leases_expired_total) == (0, 1)
    assert len((await replay(prefill, info)).finished) == 1
