"""Every engine that reads images keeps these promises; the fake one's answers depend on them too."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from engine_calls import (
    Answer,
    EngineName,
    ask,
    ask_all,
    config,
    make_engine,
    request,
    started,
    until,
)
from shepherd_events.block_hash import block_hashes
from shepherd_events.events import BlocksStored
from shepherd_worker.engine import create_encoder
from shepherd_worker.engine.embedded.engine import EmbeddedEngine
from shepherd_worker.engine.encoder import EncoderEngine
from shepherd_worker.engine.fake_vision import FakeImageProcessor
from shepherd_worker.engine.protocol import EngineConfig
from shepherd_worker.engine.vision import Encodes, ImageProcessor
from shepherd_worker.errors import EngineDeadError, InvalidRequestError, OverloadedError, StartError
from shepherd_worker.image import Array, DecodedImage, ImageInput, place_images
from shepherd_worker.request import GenerateRequest
from tiny_vision_models import picture, tiny_vision_model

ENGINES: list[EngineName] = ["fake", "torch"]
CAT, DOG = picture(1, 32, 32), picture(2, 32, 32)
TEXT = (list(range(20, 29)), list(range(30, 36)))


@pytest.fixture(params=ENGINES)
def name(request: pytest.FixtureRequest) -> EngineName:
    chosen: EngineName = request.param
    return chosen


@pytest_asyncio.fixture
async def engine(name: EngineName) -> AsyncIterator[EmbeddedEngine]:
    engine = make_engine(name, limits())
    async with started(engine):
        yield engine


def limits(**more: Any) -> EngineConfig:
    return config(model=str(tiny_vision_model("qwen2_vl")), **more)


def processor_of(engine: EmbeddedEngine | EncoderEngine) -> ImageProcessor:
    processor = engine.image_processor()
    assert processor is not None
    return processor


def about(engine: EmbeddedEngine, image: DecodedImage, **fields: Any) -> GenerateRequest:
    """Nine tokens, the image, six tokens."""
    processor = processor_of(engine)
    prompt = array("I", [*TEXT[0], processor.image_token_id, *TEXT[1]])
    token_ids, images = place_images(prompt, [processor.process(image)], processor.image_token_id)
    return request(token_ids, images=images, **fields)


def tokens(answers: Iterable[Answer]) -> list[list[int]]:
    return [answer.token_ids for answer in answers]


def found(answer: Answer) -> int:
    assert answer.usage is not None
    return answer.usage.cached_tokens


async def test_an_answer_depends_on_the_image_and_on_nothing_around_it(
    engine: EmbeddedEngine, name: EngineName
) -> None:
    calls = [about(engine, CAT), about(engine, DOG), request(TEXT[0])]
    together = await ask_all(engine, calls)
    small = make_engine(name, limits(max_num_tokens=5, max_batch_size=2))
    async with started(small):
        chunked = await ask_all(small, calls)

    assert tokens(chunked) == tokens(together)
    assert together[0].token_ids != together[1].token_ids


async def test_the_same_image_is_found_and_another_one_is_not(engine: EmbeddedEngine) -> None:
    first = await ask(engine, about(engine, CAT))
    other = await ask(engine, about(engine, DOG))
    again = await ask(engine, about(engine, CAT))
    salted = await ask(engine, about(engine, CAT, cache_salt="other tenant"))

    num_prompt = len(about(engine, CAT).token_ids)
    assert [found(a) for a in (first, other, again, salted)] == [0, 8, (num_prompt - 1) // 4 * 4, 0]
    assert first.token_ids == again.token_ids == salted.token_ids


async def test_blocks_say_which_image_they_hold_and_their_hashes_can_be_told(
    name: EngineName,
) -> None:
    engine = make_engine(name, limits())
    async with started(engine) as info:
        call = about(engine, CAT, max_tokens=1)
        await ask(engine, call)
        await engine.close()
        runs = [
            event
            async for batch in engine.cache_events()
            for event in batch
            if isinstance(event, BlocksStored)
        ]

    span = call.images[0].span
    told = [(run.start_block + key.block_index, key.span) for run in runs for key in run.media]
    num_blocks = len(call.token_ids) // 4
    assert told == [
        (b, span) for b in range(num_blocks) if b * 4 + 4 > 9 and b * 4 < 9 + span.length
    ]
    assert [h for run in runs for h in run.block_hashes] == list(
        block_hashes(info.root_hash, call.token_ids, 4, (span,))
    )
    assert [t for run in runs for t in run.token_ids] == call.token_ids.tolist()[: num_blocks * 4]


async def test_an_image_is_encoded_once_however_often_it_is_asked_about(
    engine: EmbeddedEngine,
) -> None:
    before = engine.stats().images
    await ask_all(engine, [about(engine, CAT), about(engine, CAT, cache_salt="other tenant")])
    after = engine.stats().images

    assert after.encoded_total - before.encoded_total == 1
    assert after.found_total > before.found_total
    assert after.cache_bytes > 0


async def test_a_prompt_that_is_found_needs_no_encoding(name: EngineName) -> None:
    engine = make_engine(name, limits(multimodal_embedding_cache_capacity_gb=0.0))
    async with started(engine):
        first = await ask(engine, about(engine, CAT))
        await ask(engine, about(engine, DOG))  # leaves no room for the cat's embeddings
        before = engine.stats().images.encoded_total
        again = await ask(engine, about(engine, CAT))

        assert engine.stats().images.encoded_total == before
    assert again.token_ids == first.token_ids


async def test_an_image_that_does_not_fit_its_place_is_refused(engine: EmbeddedEngine) -> None:
    call = about(engine, CAT)
    (placed,) = call.images
    short = Array("float32", (1, 1), bytes(4))
    wrong: list[tuple[GenerateRequest, str]] = [
        (replace(call, images=(replace(placed, offset=8),)), "placeholders"),
        (replace(call, images=(placed, placed)), "placeholders"),
        (replace(call, token_ids=call.token_ids[:12]), "placeholders"),
        (
            replace(call, images=(replace(placed, image=replace(placed.image, pixels={})),)),
            "pixels",
        ),
        (
            replace(call, images=(replace(placed, image=replace(placed.image, embeddings=short)),)),
            "shape",
        ),
    ]
    for bad, words in wrong:
        with pytest.raises(InvalidRequestError, match=words):
            await ask(engine, bad)


async def test_a_model_that_reads_text_only_says_so(name: EngineName) -> None:
    engine = make_engine(name)
    async with started(engine):
        assert engine.image_processor() is None
        image = FakeImageProcessor(5).process(CAT)
        call = request([5] * image.num_tokens, images=(ImageInput(image, 0),))
        with pytest.raises(InvalidRequestError, match="reads text only"):
            await ask(engine, call)


@asynccontextmanager
async def encoder(name: EngineName, **more: Any) -> AsyncIterator[EncoderEngine]:
    made = create_encoder(name, limits(**more))
    assert isinstance(made, EncoderEngine)
    async with started(made):
        yield made


async def test_embeddings_from_an_encoder_are_as_good_as_ours(
    engine: EmbeddedEngine, name: EngineName
) -> None:
    async with encoder(name) as other:
        prepared = processor_of(other).process(CAT)
        encoded = await other.encode(prepared)
        embeddings = await engine.fetch_embeddings(encoded)
        await other.drain()
        sent = other.stats()
    assert embeddings is not None
    ours = about(engine, CAT)
    image = replace(prepared, pixels={}, embeddings=embeddings)
    theirs = replace(ours, images=(replace(ours.images[0], image=image),), cache_salt="other")

    assert tokens([await ask(engine, theirs)]) == tokens([await ask(engine, ours)])
    assert (sent.leases, sent.images.encoded_total) == (0, sent.images.encoded_total)
    assert sent.transfer_bytes_total > 0


async def test_embeddings_can_be_fetched_once_and_only_for_the_same_model(
    engine: EmbeddedEngine, name: EngineName
) -> None:
    async with encoder(name) as other:
        encoded = await other.encode(processor_of(other).process(CAT))
        foreign = [
            replace(encoded, hidden_size=encoded.hidden_size + 1),
            replace(encoded, num_tokens=encoded.num_tokens + 1),
            replace(encoded, num_tokens=10**9),
            replace(encoded, dtype="object"),
            replace(encoded, ticket=replace(encoded.ticket, fingerprint="00" * 32)),
        ]
        for wrong in foreign:
            assert await engine.fetch_embeddings(wrong) is None
        fresh = await other.encode(processor_of(other).process(CAT))

        assert await engine.fetch_embeddings(fresh) is not None
        assert await engine.fetch_embeddings(fresh) is None


async def test_an_encoder_that_has_gone_is_an_answer_not_an_error(
    engine: EmbeddedEngine, name: EngineName
) -> None:
    async with encoder(name) as other:
        encoded = await other.encode(processor_of(other).process(CAT))

    assert await engine.fetch_embeddings(encoded) is None
    with pytest.raises(EngineDeadError):
        await other.encode(processor_of(other).process(CAT))
    assert not other.is_healthy()
    await other.close()


async def test_an_encoder_drains_what_was_asked_and_takes_no_more(name: EngineName) -> None:
    async with encoder(name, transfer_lease_s=0.2) as other:
        await other.encode(processor_of(other).process(CAT))
        draining = asyncio.create_task(other.drain())
        await until(lambda: other._draining)
        with pytest.raises(OverloadedError):
            await other.encode(processor_of(other).process(CAT))
        await draining

        assert other.stats().leases == 0
        assert other.stats().leases_expired_total == 1


async def test_an_encoder_generates_nothing_and_has_no_events(name: EngineName) -> None:
    async with encoder(name) as other:
        with pytest.raises(InvalidRequestError, match="only encodes"):
            await ask(other, request([1, 2, 3]))
        with pytest.raises(InvalidRequestError, match="only encodes"):
            await other.prefill(request([1, 2, 3]))
        assert isinstance(other, Encodes)
    assert [batch async for batch in other.cache_events()] == []


async def test_a_text_model_cannot_be_an_encoder(name: EngineName) -> None:
    other = create_encoder(name, config())
    with pytest.raises(StartError, match="encode"):
        await other.start()
    await other.close()
