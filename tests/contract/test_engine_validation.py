"""Every engine refuses what it cannot do, before it does anything for it."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import pytest

from engine_calls import EVERY, ask, chosen, config, request, started
from shepherd_worker.engine import create_engine
from shepherd_worker.engine.protocol import Engine
from shepherd_worker.errors import InvalidRequestError
from shepherd_worker.request import GenerateRequest, Sampling

PROMPT = [5, 6, 7]


def sampled(**settings: float) -> GenerateRequest:
    return request(PROMPT, sampling=Sampling(**settings))  # type: ignore[arg-type]


def stopped(**conditions: Any) -> GenerateRequest:
    return request(PROMPT, stops=conditions)


CASES = [
    (request([]), "prompt", 0, "1 to 511 tokens"),
    (request([1] * 512), "prompt", 512, "1 to 511 tokens"),
    (request([5, 90_000]), "token_ids", 90_000, "token ids below"),
    (stopped(max_tokens=0), "max_tokens", 0, ">= 1"),
    (stopped(max_tokens=-1), "max_tokens", -1, ">= 1"),
    (stopped(max_tokens=3, min_tokens=4), "min_tokens", 4, "0 to max_tokens=3"),
    (stopped(min_tokens=-1), "min_tokens", -1, "0 to max_tokens=8"),
    (stopped(stop=("",)), "stop", ("",), "strings that are not empty"),
    (stopped(stop=("a",) * 17), "stop", 17, "at most 16 stop strings"),
    (
        stopped(stop_token_ids=frozenset({90_000})),
        "stop_token_ids",
        [90_000],
        "token ids from 0 to",
    ),
    (sampled(temperature=-0.1), "temperature", -0.1, ">= 0, finite"),
    (sampled(temperature=math.inf), "temperature", math.inf, ">= 0, finite"),
    (sampled(temperature=math.nan), "temperature", math.nan, ">= 0, finite"),
    (sampled(top_p=0), "top_p", 0, "above 0, up to 1"),
    (sampled(top_p=1.5), "top_p", 1.5, "above 0, up to 1"),
    (sampled(top_k=-7), "top_k", -7, ">= 0, where 0 is off"),
    (sampled(min_p=2), "min_p", 2, "0 to 1"),
    (sampled(repetition_penalty=0), "repetition_penalty", 0, "above 0, finite"),
    (sampled(presence_penalty=3), "presence_penalty", 3, "-2 to 2"),
    (sampled(frequency_penalty=3), "frequency_penalty", 3, "-2 to 2"),
    (sampled(frequency_penalty=math.nan), "frequency_penalty", math.nan, "-2 to 2"),
    (request(PROMPT, logprobs=21), "logprobs", 21, "0 to 20"),
    (request(PROMPT, logprobs=-1), "logprobs", -1, "0 to 20"),
]


@pytest.fixture(params=EVERY)
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    made = create_engine(chosen(request.param), config())
    async with started(made):
        yield made


async def test_a_wrong_request_is_refused_by_field_value_and_limit(engine: Engine) -> None:
    for call, field, value, limit in CASES:
        with pytest.raises(InvalidRequestError) as refused:
            await ask(engine, call)
        with pytest.raises(InvalidRequestError, match=field):
            await engine.prefill(call)

        error = refused.value
        assert error.field == field
        assert error.value == value or error.value is value
        assert limit in error.expected
        assert field in str(error)
        assert repr(value) in str(error)
        assert limit in str(error)


async def test_refused_requests_leave_no_trace(engine: Engine) -> None:
    before = engine.stats()
    for call, *_ in CASES:
        with pytest.raises(InvalidRequestError):
            await ask(engine, call)
    await ask(engine, request(PROMPT, 1))

    after = engine.stats()
    assert (before.num_running, before.num_waiting) == (0, 0)
    assert (after.prompt_tokens_total, after.generated_tokens_total) == (3, 1)
    assert (after.num_running, after.blocks_referenced, after.requests_failed_total) == (0, 0, 0)


async def test_an_engine_without_adapters_refuses_lora() -> None:
    engine = create_engine("torch", config())
    async with started(engine):
        with pytest.raises(InvalidRequestError, match="lora_name='tuned'"):
            await ask(engine, request(PROMPT, lora_name="tuned"))


async def test_an_engine_without_a_tokenizer_refuses_stop_strings() -> None:
    engine = create_engine("fake", config(model="no-such-directory"))
    async with started(engine):
        with pytest.raises(InvalidRequestError, match="no tokenizer"):
            await ask(engine, stopped(stop=("a",)))
