"""Float32 greedy tokens are those of transformers' own `generate`, however they are computed."""

from __future__ import annotations

import functools
from random import Random
from typing import Any

import pytest
import torch

from engine_calls import Answer, ask, ask_all, config, make_engine, make_runner, request, started
from shepherd_worker.engine.protocol import EngineStats
from shepherd_worker.request import Sampling
from tiny_models import SLIDING_WINDOW, Kind
from transformers_answers import generated, reference

KINDS: list[Kind] = ["llama", "qwen2", "qwen3", "mistral"]
LENGTH = 14


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


@functools.cache
def prompts(seed: int, *lengths: int) -> tuple[tuple[int, ...], ...]:
    random = Random(seed)
    return tuple(tuple(random.choices(range(2, 300), k=length)) for length in lengths)


async def run(
    kind: Kind, texts: tuple[tuple[int, ...], ...], **limits: Any
) -> tuple[list[Answer], EngineStats]:
    """Ask all at once."""
    engine = make_engine("torch", config(kind, **limits))
    async with started(engine):
        answers = await ask_all(engine, [request(text, LENGTH) for text in texts])
        return answers, engine.stats()


def check(kind: Kind, texts: tuple[tuple[int, ...], ...], answers: list[Answer]) -> None:
    expected = [generated(kind, text, LENGTH) for text in texts]

    assert [answer.token_ids for answer in answers] == expected
    assert len(set(map(tuple, expected))) == len(set(texts)), "a model that says one thing"


async def test_alone(kind: Kind) -> None:
    texts = prompts(1, 2 * SLIDING_WINDOW + 3)
    answers, _ = await run(kind, texts)

    check(kind, texts, answers)


async def test_a_prompt_of_one_token(kind: Kind) -> None:
    texts = ((7,),)
    answers, _ = await run(kind, texts)

    check(kind, texts, answers)


async def test_prompts_of_different_lengths_in_one_batch(kind: Kind) -> None:
    texts = prompts(2, 1, 4, 5, 17, 23, 40, 61)
    answers, stats = await run(kind, texts)

    check(kind, texts, answers)
    assert stats.prompt_tokens_cached_total == 0


async def test_prompts_in_chunks_beside_decodes(kind: Kind) -> None:
    texts = prompts(3, 40, 9, 57, 30, 3)
    answers, _ = await run(kind, texts, max_num_tokens=7, max_batch_size=3)

    check(kind, texts, answers)


@pytest.mark.parametrize("block_size", [1, 3, 16])
async def test_blocks_of_any_size(block_size: int) -> None:
    texts = prompts(4, 33, 16, 5)
    answers, _ = await run("mistral", texts, block_size=block_size, max_num_tokens=11)

    check("mistral", texts, answers)


async def test_a_prefix_that_is_found_is_as_good_as_computed(kind: Kind) -> None:
    (prefix,) = prompts(5, 40)
    texts = tuple(
        (*prefix[:length], *tail)
        for length, tail in zip((40, 37, 24, 40), prompts(6, 1, 9, 2, 13), strict=True)
    )
    engine = make_engine("torch", config(kind))
    async with started(engine):
        first = await ask(engine, request(prefix, LENGTH))
        answers = await ask_all(engine, [request(text, LENGTH) for text in texts])
        stats = engine.stats()

    check(kind, (prefix, *texts), [first, *answers])
    assert [answer.usage and answer.usage.cached_tokens for answer in answers] == [40, 36, 24, 40]
    assert stats.prompt_tokens_cached_total == 140


async def test_sequences_that_are_preempted_and_evicted_go_on_as_if_nothing_was(kind: Kind) -> None:
    texts = prompts(7, 20, 21, 22, 19, 23)
    answers, stats = await run(kind, texts, num_kv_blocks=20, max_num_tokens=64)

    check(kind, texts, answers)
    assert stats.preemptions_total > 0
    assert stats.blocks_evicted_total > 0
    assert stats.blocks_referenced == 0


async def test_a_prompt_whose_blocks_were_evicted_is_computed_again(kind: Kind) -> None:
    (text,) = prompts(8, 30)
    engine = make_engine("torch", config(kind, num_kv_blocks=16))
    async with started(engine):
        first = await ask(engine, request(text, LENGTH))
        for other in prompts(9, 40, 40):
            await ask(engine, request(other, LENGTH))
        again = await ask(engine, request(text, LENGTH))
        stats = engine.stats()

    check(kind, (text, text), [first, again])
    assert stats.blocks_evicted_total > 16
    assert again.usage is not None
    assert again.usage.cached_tokens == 0


async def test_prompts_that_went_to_the_host_and_came_back(kind: Kind) -> None:
    texts = prompts(14, 20, 21, 22, 19, 23)
    block_bytes = make_runner("torch", config(kind, num_kv_blocks=2)).load().block_bytes
    limits = config(kind, num_kv_blocks=20, max_num_tokens=64, host_cache_size=16 * block_bytes)
    engine = make_engine("torch", limits)
    async with started(engine):
        answers = await ask_all(engine, [request(text, LENGTH) for text in (*texts, *texts[:3])])
        for text in texts:
            answers.append(await ask(engine, request(text, LENGTH)))
        stats = engine.stats()

    check(kind, (*texts, *texts[:3], *texts), answers)
    assert stats.preemptions_total > 0
    assert stats.blocks_evicted_total > 0
    assert stats.blocks_onboarded_total > 0
    assert stats.blocks_referenced == 0


async def test_an_answer_beyond_the_sliding_window_and_up_to_the_context() -> None:
    (text,) = prompts(10, 40)
    engine = make_engine("torch", config("mistral", max_seq_len=96))
    async with started(engine):
        answer = await ask(engine, request(text, None))

    assert answer.token_ids == generated("mistral", text, 56)


async def test_logprobs_are_those_of_the_model_s_logits(kind: Kind) -> None:
    (text,) = prompts(11, 30)
    engine = make_engine("torch", config(kind, max_num_tokens=8))
    async with started(engine):
        answer = await ask(engine, request(text, 6, logprobs=3))
    with torch.inference_mode():
        tokens = torch.tensor([[*text, *answer.token_ids]])
        logits = reference(kind)(tokens).logits[0, len(text) - 1 : -1]
    best = logits.log_softmax(-1).topk(3)

    assert [entry.token_id for entry in answer.logprobs] == answer.token_ids
    for row, entry in enumerate(answer.logprobs):
        assert entry.logprob == pytest.approx(best.values[row, 0].item(), abs=1e-4)
        assert [token for token, _ in entry.top] == best.indices[row].tolist()
        assert [value for _, value in entry.top] == pytest.approx(
            best.values[row].tolist(), abs=1e-4
        )


async def test_a_seeded_answer_is_the_same_alone_in_a_crowd_and_after_preemption() -> None:
    texts = prompts(12, 20, 21, 22, 19, 23)
    calls = [
        request(text, LENGTH, sampling=Sampling(seed=i, temperature=1.5, top_p=0.9))
        for i, text in enumerate(texts)
    ]
    roomy = make_engine("torch", config("llama"))
    async with started(roomy):
        alone = [await ask(roomy, call) for call in calls]
    small = make_engine("torch", config("llama", num_kv_blocks=20, max_num_tokens=64))
    async with started(small):
        crowded = await ask_all(small, calls)

        assert small.stats().preemptions_total > 0
    assert [a.token_ids for a in crowded] == [a.token_ids for a in alone]
