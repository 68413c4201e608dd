"""Images with TensorRT-LLM: handed over as pictures or embeddings, and told of with our own hashes."""

from __future__ import annotations

import asyncio
import json
from array import array
from dataclasses import replace
from typing import Any

import pytest

from engine_calls import Answer, ask, ask_all, config, make_engine, request, started
from shepherd_events.block_hash import block_hashes
from shepherd_events.events import BlocksStored
from shepherd_worker.engine import create_encoder, create_engine
from shepherd_worker.engine.encoder import EncoderEngine
from shepherd_worker.engine.protocol import Engine, EngineConfig
from shepherd_worker.engine.trtllm.engine import TrtllmEngine
from shepherd_worker.engine.trtllm.library import load_library
from shepherd_worker.errors import InvalidRequestError, StartError
from shepherd_worker.image import Array, DecodedImage, PreparedImage, pixel_digest, place_images
from shepherd_worker.request import GenerateRequest
from shepherd_worker.wire import parse_handoff, render_handoff
from tiny_vision_models import picture, tiny_vision_model
from trtllm_fake import VERSIONS, use_fake_trtllm

CAT, DOG = picture(1, 32, 32), picture(2, 32, 32)
TEXT = (list(range(20, 29)), list(range(30, 36)))


def limits(**more: Any) -> EngineConfig:
    return config(model=str(tiny_vision_model("qwen2_vl")), **more)


def engine(version: str = "1.3.0rc20", **more: Any) -> Engine:
    use_fake_trtllm(version)
    return create_engine("trtllm", limits(**more))


def prepared(engine: Engine, image: DecodedImage) -> PreparedImage:
    processor = engine.image_processor()
    assert processor is not None
    return processor.process(image)


def about(engine: Engine, *images: DecodedImage | PreparedImage, **fields: Any) -> GenerateRequest:
    """Nine tokens, the images, six tokens."""
    processor = engine.image_processor()
    assert processor is not None
    ready = [
        image if isinstance(image, PreparedImage) else processor.process(image) for image in images
    ]
    token = processor.image_token_id
    prompt = array("I", [*TEXT[0], *[token] * len(ready), *TEXT[1]])
    token_ids, placed = place_images(prompt, ready, token)
    return request(token_ids, images=placed, **fields)


def found(answer: Answer) -> int:
    assert answer.usage is not None
    return answer.usage.cached_tokens


async def test_answers_are_those_of_the_embedded_engine_and_depend_on_the_image() -> None:
    serving, embedded = engine(), make_engine("fake", limits())
    async with started(serving), started(embedded):
        calls = [about(serving, CAT), about(serving, DOG), about(serving, CAT, DOG)]
        ours = await ask_all(serving, calls)
        theirs = await ask_all(
            embedded, [about(embedded, CAT), about(embedded, DOG), about(embedded, CAT, DOG)]
        )

    assert [answer.token_ids for answer in ours] == [answer.token_ids for answer in theirs]
    assert len({tuple(answer.token_ids) for answer in ours}) == 3
    assert [answer.usage.prompt_tokens for answer in ours if answer.usage] == [19, 19, 23]


@pytest.mark.parametrize("version", VERSIONS)
async def test_blocks_with_images_have_canonical_hashes_and_say_which(version: str) -> None:
    """TensorRT-LLM tells tokens beyond the vocabulary for them, and in 1.2 nothing more."""
    serving = engine(version)
    info = await serving.start()
    call = about(serving, CAT, max_tokens=1)
    first = await ask(serving, call)
    other = await ask(serving, about(serving, DOG, max_tokens=1))
    again = await ask(serving, call)
    await serving.close()
    batches = [batch async for batch in serving.cache_events()]
    runs = [e for batch in batches for e in batch if isinstance(e, BlocksStored)]

    assert [found(answer) for answer in (first, other, again)] == [0, 8, 16]
    mine = [run for run in runs if run.origin is not None]
    told = {h for run in mine for h in run.block_hashes}
    for asked in (call, about_again(call, DOG)):
        spans = tuple(placed.span for placed in asked.images)
        assert set(block_hashes(info.root_hash, asked.token_ids, 4, spans)) <= told
    media = {key.span.digest for run in runs for key in run.media}
    assert media == {pixel_digest_of(CAT), pixel_digest_of(DOG)}
    (unmapped,) = [m for m in serving.metrics() if m.name == "shepherd_trtllm_blocks_unmapped"]
    assert unmapped.samples[0].value == 0


def pixel_digest_of(image: DecodedImage) -> bytes:
    return pixel_digest({"rgb": Array("uint8", (image.height, image.width, 3), image.rgb)})


def about_again(call: GenerateRequest, image: DecodedImage) -> GenerateRequest:
    """The same request about another image of the same size."""
    (placed,) = call.images
    changed = replace(placed.image, digest=pixel_digest_of(image))
    return replace(call, images=(replace(placed, image=changed),))


async def test_a_prompt_with_images_is_answered_from_a_prefill_workers_kv() -> None:
    prefill, decode = (engine(disaggregated=True) for _ in range(2))
    async with started(prefill), started(decode):
        whole = await ask(decode, about(decode, CAT, cache_salt="alone"))
        result = await prefill.prefill(about(prefill, CAT))
        handoff = parse_handoff(json.loads(json.dumps(render_handoff(result.handoff))))
        answer = await ask(decode, about(decode, CAT), handoff)

        assert answer.token_ids == whole.token_ids
        assert decode.stats().transfer_failures_total == 0
        assert decode.stats().prompt_tokens_transferred_total > 0
        assert len(handoff.own["prompt_token_ids"]) == 19


async def test_an_encode_worker_gives_embeddings_that_answer_alike() -> None:
    use_fake_trtllm()
    encoder = create_encoder("trtllm", limits())
    assert isinstance(encoder, EncoderEngine)
    serving = engine()
    async with started(encoder), started(serving):
        image = encoder.image_processor().process(CAT)
        embeddings = await serving.fetch_embeddings(await encoder.encode(image))
        assert embeddings is not None
        assert embeddings.shape == (4, 32)
        theirs = replace(image, pixels={}, embeddings=embeddings)
        answers = [
            await ask(serving, about(serving, theirs)),
            await ask(serving, about(serving, CAT, cache_salt="other")),
        ]
        async with asyncio.timeout(10):
            await encoder.drain()

        assert answers[0].token_ids == answers[1].token_ids
        assert encoder.stats().images.encoded_total == 1


async def test_a_model_that_reads_text_says_so_and_cannot_encode() -> None:
    use_fake_trtllm()
    serving = create_engine("trtllm", config())
    async with started(serving):
        assert serving.image_processor() is None
    encoder = create_encoder("trtllm", config())
    with pytest.raises(StartError, match="names no image token"):
        await encoder.start()
    await encoder.close()


async def test_a_version_that_cannot_count_an_images_tokens_serves_text_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    use_fake_trtllm()
    library = replace(load_library(), create_input_processor=lambda *_: object())
    serving = TrtllmEngine(limits(), library)
    async with started(serving):
        assert serving.image_processor() is None
        assert len((await ask(serving, request(TEXT[0]))).token_ids) == 8

    assert "images will be refused" in caplog.text


async def test_an_image_that_does_not_fit_its_place_is_refused() -> None:
    serving = engine()
    async with started(serving):
        call = about(serving, CAT)
        (placed,) = call.images
        with pytest.raises(InvalidRequestError, match="placeholders"):
            await ask(serving, replace(call, images=(replace(placed, offset=8),)))
