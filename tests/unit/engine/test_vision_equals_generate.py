"""Float32 greedy answers about images are those of transformers' own `generate`."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from engine_calls import Answer, ask, ask_all, config, make_engine, started
from shepherd_worker.engine.embedded.engine import EmbeddedEngine
from shepherd_worker.engine.embedded.model.torch_encoder import TorchImageEncoder
from shepherd_worker.engine.embedded.torch_runner import TorchRunner
from shepherd_worker.engine.protocol import EngineConfig
from shepherd_worker.engine.vision import ImageProcessor
from tiny_vision_models import VisionKind, tiny_vision_model
from vision_reference import (
    KINDS,
    PROMPTS,
    call_of,
    generated,
    place,
)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> VisionKind:
    chosen: VisionKind = request.param
    return chosen


def limits(kind: VisionKind, **more: Any) -> EngineConfig:
    return config(model=str(tiny_vision_model(kind)), **more)


@functools.cache
def expected(kind: VisionKind) -> list[list[int]]:
    runner = TorchRunner(limits(kind))
    runner.load()
    processor = runner.image_processor()
    assert processor is not None
    return [generated(kind, call_of(processor, prompt)) for prompt in PROMPTS]


def processor_of(engine: EmbeddedEngine) -> ImageProcessor:
    processor = engine.image_processor()
    assert processor is not None
    return processor


def tokens(answers: Iterable[Answer]) -> list[list[int]]:
    return [answer.token_ids for answer in answers]


def test_the_reference_tells_the_pictures_apart(kind: VisionKind) -> None:
    assert len(set(map(tuple, expected(kind)))) == len(PROMPTS)


async def test_text_and_images_in_one_batch(kind: VisionKind) -> None:
    engine = make_engine("torch", limits(kind))
    async with started(engine):
        calls = [call_of(processor_of(engine), prompt) for prompt in PROMPTS]
        answers = await ask_all(engine, calls)

    assert tokens(answers) == expected(kind)


@pytest.mark.parametrize("budget", [5, 13])
async def test_images_that_are_split_into_chunks(kind: VisionKind, budget: int) -> None:
    engine = make_engine("torch", limits(kind, max_num_tokens=budget, max_batch_size=3))
    async with started(engine):
        calls = [call_of(processor_of(engine), prompt) for prompt in PROMPTS]
        answers = await ask_all(engine, calls)

    assert tokens(answers) == expected(kind)


@pytest.mark.parametrize("block_size", [1, 4, 16])
async def test_a_prefix_is_found_where_the_image_is_the_same_and_only_there(
    kind: VisionKind, block_size: int
) -> None:
    """Blocks end before, within and after the images."""
    engine = make_engine("torch", limits(kind, block_size=block_size))
    async with started(engine):
        calls = [call_of(processor_of(engine), prompt) for prompt in PROMPTS]
        first = [await ask(engine, call) for call in calls]
        again = [await ask(engine, call) for call in calls]

    assert tokens(first) == tokens(again) == expected(kind)
    assert [found(answer) for answer in again] == [
        (len(call.token_ids) - 1) // block_size * block_size for call in calls
    ]
    # the second prompt shares nine words with the first, and not one token of the image
    assert found(first[1]) == 9 // block_size * block_size


async def test_preemption_and_eviction_change_nothing(kind: VisionKind) -> None:
    engine = make_engine("torch", limits(kind, num_kv_blocks=22, max_num_tokens=40))
    async with started(engine):
        calls = [call_of(processor_of(engine), prompt) for prompt in PROMPTS]
        answers = await ask_all(engine, calls)
        stats = engine.stats()

    assert tokens(answers) == expected(kind)
    assert stats.preemptions_total > 0
    assert stats.blocks_evicted_total > 0


async def test_embeddings_that_another_worker_computed_are_as_good_as_pixels(
    kind: VisionKind,
) -> None:
    tower = TorchImageEncoder(limits(kind))
    tower.load()
    engine = make_engine("torch", limits(kind, max_num_tokens=7, max_batch_size=2))
    async with started(engine):
        processor = processor_of(engine)
        calls = []
        for prompt in PROMPTS:
            prepared = [processor.process(each) for each in prompt.pictures]
            encoded = [
                replace(image, embeddings=tower.encode(image), pixels={}) for image in prepared
            ]
            calls.append(place(processor, prompt, encoded))
        answers = await ask_all(engine, calls)

    assert tokens(answers) == expected(kind)


async def test_another_tenant_finds_nothing(kind: VisionKind) -> None:
    engine = make_engine("torch", limits(kind))
    async with started(engine):
        processor = processor_of(engine)
        answers = [
            await ask(engine, call_of(processor, PROMPTS[3], cache_salt=salt))
            for salt in ("a", "b", "a")
        ]

    assert tokens(answers) == [expected(kind)[3]] * 3
    assert [found(answer) > 0 for answer in answers] == [False, False, True]


async def test_prefill_and_decode_in_two_engines(kind: VisionKind) -> None:
    prefill, decode = (make_engine("torch", limits(kind)) for _ in range(2))
    async with started(prefill), started(decode):
        calls = [call_of(processor_of(decode), prompt) for prompt in PROMPTS]
        answers = []
        for call in calls:
            result = await prefill.prefill(call)
            answers.append(await ask(decode, call, result.handoff))
        fetched = decode.stats().prompt_tokens_transferred_total

    assert tokens(answers) == expected(kind)
    assert fetched > 0


def found(answer: Answer) -> int:
    assert answer.usage is not None
    return answer.usage.cached_tokens


@pytest.mark.parametrize(
    "feature",
    [
        {"speculative": "ngram", "speculative_window": 2},
        {"num_kv_blocks": 24, "host_cache_size": 200_000, "max_num_tokens": 40},
    ],
    ids=["guesses", "host tier"],
)
async def test_other_features_of_the_cache_change_no_answer(
    kind: VisionKind, feature: dict[str, Any]
) -> None:
    engine = make_engine("torch", limits(kind, **feature))
    async with started(engine):
        calls = [call_of(processor_of(engine), prompt) for prompt in PROMPTS]
        first = await ask_all(engine, calls)
        again = [await ask(engine, call) for call in calls]
        stats = engine.stats()

    assert tokens(first) == tokens(again) == expected(kind)
    assert stats.drafts_total > 0 or stats.blocks_onboarded_total > 0
