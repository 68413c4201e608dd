"""Speculation changes how fast an engine answers, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from engine_calls import (
    Answer,
    EngineName,
    ask,
    ask_all,
    config,
    make_engine,
    replay,
    request,
    started,
)
from shepherd_worker.engine.protocol import EngineStats
from shepherd_worker.request import GenerateRequest, Sampling

ENGINES = pytest.mark.parametrize("name", ["fake", "torch"])
REPEATED = [11, 12, 13, 14, 15, 16, 17, 18] * 4
WAYS: list[dict[str, Any]] = [
    {},
    {"logprobs": 2},
    {"sampling": Sampling(seed=5, temperature=0.8, top_p=0.9)},
    {"sampling": Sampling(seed=6, temperature=1.5, repetition_penalty=0.6)},
    {"sampling": Sampling(temperature=0, frequency_penalty=-2.0)},
    {"ignore_eos": False, "stops": {"min_tokens": 9, "stop_token_ids": frozenset(range(99))}},
    {"ignore_eos": False, "stops": {"stop": ("e", "a")}},
]


def calls() -> list[GenerateRequest]:
    return [
        request([*REPEATED, number, *REPEATED[:3]], 30, request_id=str(number), **way)
        for number, way in enumerate(WAYS)
    ]


async def answers_and_stats(
    name: EngineName, speculative: str, **limits: Any
) -> tuple[list[Answer], set[int], EngineStats]:
    engine = make_engine(name, config(speculative=speculative, speculative_window=1, **limits))
    info = await engine.start()
    answers = await ask_all(engine, calls())
    stats = engine.stats()
    replica = await replay(engine, info)
    return answers, set(replica.resident), stats


def without_noise(answer: Answer) -> tuple[Any, ...]:
    logprobs = [
        (entry.token_id, round(entry.logprob, 2), [token for token, _ in entry.top])
        for entry in answer.logprobs
    ]
    return answer.token_ids, logprobs, answer.finish_reason, answer.stop_reason


@ENGINES
async def test_every_kind_of_request_is_answered_as_without_it(name: EngineName) -> None:
    plain, plain_blocks, before = await answers_and_stats(name, "none")
    guessed, blocks, after = await answers_and_stats(name, "ngram")

    assert [without_noise(a) for a in guessed] == [without_noise(a) for a in plain]
    assert blocks == plain_blocks
    assert before.drafts_total == before.drafted_tokens_total == 0
    assert after.drafted_tokens_total > 0
    assert after.blocks_referenced == 0


@ENGINES
async def test_a_cache_that_is_too_small_for_all_makes_no_difference(name: EngineName) -> None:
    limits = {"num_kv_blocks": 36, "max_batch_size": 4, "max_num_tokens": 24}
    plain, _, before = await answers_and_stats(name, "none", **limits)
    guessed, _, after = await answers_and_stats(name, "ngram", **limits)

    assert [a.token_ids for a in guessed] == [a.token_ids for a in plain]
    assert before.blocks_evicted_total > 0
    assert after.drafted_tokens_total > 0


async def test_a_model_that_repeats_itself_has_its_guesses_accepted() -> None:
    settings = Sampling(temperature=0, frequency_penalty=-2.0)
    call = request(REPEATED, 100, sampling=settings)
    engine = make_engine("torch", config(speculative="ngram"))
    plain = make_engine("torch", config())
    await engine.start()
    await plain.start()
    guessed = await ask(engine, call)
    stats = engine.stats()
    expected = await ask(plain, call)
    await engine.close()
    await plain.close()

    assert guessed.token_ids == expected.token_ids
    assert stats.accepted_tokens_total > 30
    assert stats.acceptance_rate > 0.7
    assert stats.mean_accepted_length > 2


async def test_a_prefill_guesses_nothing() -> None:
    engine = make_engine("fake", config(speculative="ngram", speculative_window=1))
    await engine.start()
    await engine.prefill(request(REPEATED, 9))
    stats = engine.stats()
    await engine.close()

    assert stats.drafts_total == 0


@ENGINES
async def test_a_decode_worker_that_guesses_answers_as_an_aggregated_one(name: EngineName) -> None:
    prefill, plain = make_engine(name, config()), make_engine(name, config())
    decode = make_engine(name, config(speculative="ngram", speculative_window=1))
    async with started(prefill), started(plain), started(decode):
        call = request([*REPEATED, 3, *REPEATED[:5]], 30)
        handed = await prefill.prefill(call)
        guessed = await ask(decode, call, handed.handoff)
        expected = await ask(plain, call)
        stats = decode.stats()

    assert guessed.token_ids == expected.token_ids
    assert stats.drafted_tokens_total > 0
    assert stats.prompt_tokens_transferred_total > 0
