"""Float32 greedy answers about images are those of transformers' own `generate`."""

from __future__ import annotations

import functools
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from engine_calls import Answer, ask, ask_all, config, make_engine, request, started
from shepherd_worker.engine.embedded.engine import EmbeddedEngine
from shepherd_worker.engine.embedded.model.torch_encoder import TorchImageEncoder
from shepherd_worker.engine.embedded.model.vision import to_tensor
from shepherd_worker.engine.embedded.torch_runner import TorchRunner
from shepherd_worker.engine.protocol import EngineConfig
from shepherd_worker.engine.vision import ImageProcessor
from shepherd_worker.image import DecodedImage, PreparedImage, place_images
from shepherd_worker.request import GenerateRequest
from tiny_vision_models import VisionKind, picture, tiny_vision_model

KINDS: list[VisionKind] = ["llava", "qwen2_vl", "qwen2_5_vl"]
LENGTH = 12


@dataclass(frozen=True)
class Prompt:
    """Text tokens around pictures: one more text than there are pictures."""

    texts: tuple[tuple[int, ...], ...]
    pictures: tuple[DecodedImage, ...] = ()


def words(seed: int, *lengths: int) -> tuple[tuple[int, ...], ...]:
    random = Random(seed)
    return tuple(tuple(random.choices(range(3, 300), k=length)) for length in lengths)


CAT, DOG, WIDE = picture(1, 24, 16), picture(2, 24, 16), picture(3, 48, 24)
# a word between two images: without one transformers itself takes them for a single image
PROMPTS = (
    Prompt(words(1, 9, 6), (CAT,)),
    Prompt(words(1, 9, 6), (DOG,)),
    Prompt(words(2, 30)),
    Prompt(words(3, 0, 5, 7), (WIDE, CAT)),
    Prompt(words(4, 3, 1, 11), (DOG, DOG)),
    Prompt(words(5, 6)),
)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> VisionKind:
    chosen: VisionKind = request.param
    return chosen


def limits(kind: VisionKind, **more: Any) -> EngineConfig:
    return config(model=str(tiny_vision_model(kind)), **more)


def call_of(processor: ImageProcessor, prompt: Prompt, **fields: Any) -> GenerateRequest:
    prepared = [processor.process(each) for each in prompt.pictures]
    return place(processor, prompt, prepared, **fields)


def place(
    processor: ImageProcessor, prompt: Prompt, prepared: list[PreparedImage], **fields: Any
) -> GenerateRequest:
    tokens = array("I", prompt.texts[0])
    for text in prompt.texts[1:]:
        tokens += array("I", [processor.image_token_id, *text])
    expanded, images = place_images(tokens, prepared, processor.image_token_id)
    return request(expanded, LENGTH, images=images, **fields)


@functools.cache
def reference(kind: VisionKind) -> Any:
    torch.set_num_threads(1)
    directory = tiny_vision_model(kind)
    return AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval()


def generated(kind: VisionKind, call: GenerateRequest) -> list[int]:
    """What transformers answers."""
    model, prompt = reference(kind), torch.tensor([call.token_ids.tolist()])
    given: dict[str, Any] = {}
    for placed in call.images:
        for name, values in placed.image.pixels.items():
            given.setdefault(name, []).append(to_tensor(values))
    given = {name: torch.cat(values) for name, values in given.items()}
    if given and kind != "llava":
        given["mm_token_type_ids"] = (prompt == model.config.image_token_id).int()
    with torch.inference_mode():
        tokens = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=LENGTH,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            **given,
        )
    answer: list[int] = tokens[0, prompt.shape[1] :].tolist()
    return answer


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
