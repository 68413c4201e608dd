"""The encode role and its callers, over the fake engine and encode workers that misbehave."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import jsonschema
import pytest
from prometheus_client import CollectorRegistry

from chat_models import model
from engine_calls import config, until
from media_server import data_url
from shepherd_config import OptionError
from shepherd_worker.attribution import Attributor
from shepherd_worker.config import Role, WorkerConfig, load_config
from shepherd_worker.engine import create_encoder, create_engine
from shepherd_worker.engine.protocol import Engine
from shepherd_worker.errors import EncodeWorkerError, InvalidRequestError, OverloadedError
from shepherd_worker.handlers import Handler, Intake, create_handler
from shepherd_worker.handlers.images import ImagePlaces, ImageSource
from shepherd_worker.handlers.remote_images import RemoteImages
from shepherd_worker.image import PreparedImage
from shepherd_worker.image_wire import image_urls
from shepherd_worker.inflight import InFlight
from shepherd_worker.media.fetch import MediaFetcher
from shepherd_worker.media.loading import ImageLoader
from shepherd_worker.media.policy import MediaPolicy
from shepherd_worker.schemas import schemas
from shepherd_worker.telemetry import ImageMetrics, RequestMetrics
from tiny_vision_models import picture, tiny_vision_model

CAT, DOG = data_url(picture(1, 32, 32)), data_url(picture(2, 32, 32))
IMAGE_TOKEN = 2


class Context:
    def id(self) -> str:
        return "id"

    async def async_killed_or_stopped(self) -> bool:
        await asyncio.Event().wait()
        return True


class Workers:
    """Encode workers of one process: a handler, or whatever `answer` says."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.answer: dict[str, Any] | Exception | None = None
        self.num_asked = 0

    async def encode(self, request: dict[str, Any]) -> dict[str, Any]:
        self.num_asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer or await one(self.handler, request)


class House:
    """An encode worker and one that asks it."""

    def __init__(self, handler: Handler, workers: Workers, registry: CollectorRegistry) -> None:
        self.handler = handler
        self.workers = workers
        self._registry = registry

    def count(self, name: str) -> float:
        return self._registry.get_sample_value(f"shepherd_worker_{name}_total") or 0


async def one(handler: Handler, asked: dict[str, Any]) -> dict[str, Any]:
    (chunk,) = [chunk async for chunk in handler.generate(asked, Context())]
    return chunk


def parts(*urls: str) -> dict[str, Any]:
    return {"multi_modal_data": {"image_url": [{"Url": url} for url in urls]}}


def question(*urls: str) -> dict[str, Any]:
    return {
        "token_ids": [5, 6, *[IMAGE_TOKEN] * len(urls), 7],
        "stop_conditions": {"max_tokens": 6, "ignore_eos": True},
        "sampling_options": {"temperature": 0.0},
        **parts(*urls),
    }


def intake(engine: Engine, images: ImageSource | None) -> Intake:
    return Intake(
        engine=engine,
        attributor=Attributor(model("chatml").reader),
        inflight=InFlight(),
        metrics=RequestMetrics(CollectorRegistry()),
        images=images,
    )


async def loader(cleanup: AsyncExitStack, engine: Engine) -> ImageLoader:
    cleanup.push_async_callback(engine.close)
    await engine.start()
    processor = engine.image_processor()
    assert processor is not None
    policy = MediaPolicy(max_images=3)
    made = ImageLoader(await cleanup.enter_async_context(MediaFetcher(policy)), policy, processor)
    cleanup.callback(made.close)
    return made


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    limits = config(model=str(tiny_vision_model("qwen2_vl")))
    registry = CollectorRegistry()
    async with AsyncExitStack() as cleanup:
        encoder, engine = create_encoder("fake", limits), create_engine("fake", limits)
        encode = create_handler(Role.ENCODE, intake(encoder, await loader(cleanup, encoder)))
        workers = Workers(encode)
        local = await loader(cleanup, engine)
        remote = RemoteImages(workers, engine, local, ImageMetrics(registry))
        yield House(create_handler(Role.AGGREGATED, intake(engine, remote)), workers, registry)


async def answer(house: House, *urls: str) -> list[int]:
    chunks = [chunk async for chunk in house.handler.generate(question(*urls), Context())]
    return [token for chunk in chunks for token in chunk["token_ids"]]


async def test_an_encode_worker_answers_with_one_chunk_of_its_schema() -> None:
    async with house() as it:
        chunk = await one(it.workers.handler, parts(CAT, DOG))

    jsonschema.validate(chunk, schemas()["encode_answer"])
    assert (chunk["finish_reason"], len(chunk["images"])) == ("stop", 2)
    assert chunk["images"][0]["digest"] != chunk["images"][1]["digest"]


async def test_an_encode_worker_tells_what_it_refuses() -> None:
    async with house() as it:
        for asked, field in [
            (parts("ftp://x/a.png"), "image_url"),
            (parts(CAT, CAT, CAT, CAT), "image_url"),
            ({"multi_modal_data": {"video_url": [{"Url": "x"}]}}, "video_url"),
            ({"multi_modal_data": {"image_url": [{"Decoded": {}}]}}, "image_url"),
        ]:
            chunk = await one(it.workers.handler, asked)

            assert (chunk["images"], chunk["refused"]["field"]) == (None, field)


async def test_its_answer_is_the_same_as_without_it() -> None:
    async with house() as it:
        remote = [await answer(it, CAT), await answer(it, DOG, CAT)]
        assert (it.count("images_remote"), it.count("encode_fallbacks")) == (3, 0)

    async with house() as it:
        it.workers.answer = EncodeWorkerError("gone")
        local = [await answer(it, CAT), await answer(it, DOG, CAT)]
        assert (it.count("images_remote"), it.count("encode_fallbacks")) == (0, 2)

    assert remote == local
    assert len(set(map(tuple, remote))) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        EncodeWorkerError("lost"),
        TimeoutError(),
        {"images": []},
        {"images": None},
        {"images": [{"digest": "00"}]},
        {"token_ids": [], "finish_reason": "cancelled"},
        {"images": "nonsense"},
    ],
    ids=lambda value: str(value)[:30],
)
async def test_an_answer_that_is_none_means_encoding_here(wrong: Any) -> None:
    async with house() as it:
        expected = await answer(it, CAT)
        it.workers.answer = wrong

        assert await answer(it, CAT) == expected
        assert it.count("encode_fallbacks") == 1


async def test_a_ticket_that_leads_nowhere_means_encoding_here() -> None:
    async with house() as it:
        expected = await answer(it, CAT)
        stale = await one(it.workers.handler, parts(CAT))
        stale["images"][0]["ticket"]["transfer_id"] = "00" * 16
        it.workers.answer = stale

        assert await answer(it, CAT) == expected
        assert it.count("encode_fallbacks") == 1


async def test_a_refusal_is_the_client_s_and_is_not_tried_again_here() -> None:
    async with house() as it:
        with pytest.raises(InvalidRequestError, match="public internet"):
            await answer(it, "https://10.0.0.1/a.png")

        assert (it.workers.num_asked, it.count("encode_fallbacks")) == (1, 0)


class SlowImages:
    """An image source that waits to be let go."""

    image_token_id = IMAGE_TOKEN

    def __init__(self, source: ImageSource) -> None:
        self.source = source
        self.num_begun = 0
        self.let_go = asyncio.Event()

    async def load(self, urls: Sequence[str]) -> list[PreparedImage]:
        self.num_begun += 1
        await self.let_go.wait()
        return await self.source.load(urls)


async def test_requests_with_images_are_only_so_many_at_once() -> None:
    limits = config(model=str(tiny_vision_model("qwen2_vl")))
    engine = create_engine("fake", limits)
    async with AsyncExitStack() as cleanup:
        slow = SlowImages(await loader(cleanup, engine))
        held = dataclasses.replace(intake(engine, slow), places=ImagePlaces(1))
        handler = create_handler(Role.AGGREGATED, held)
        it = House(handler, Workers(handler), CollectorRegistry())
        first = asyncio.create_task(answer(it, CAT))
        await until(lambda: slow.num_begun == 1)

        with pytest.raises(OverloadedError, match="limit is 1"):
            await answer(it, DOG)
        assert await answer(it) != []
        slow.let_go.set()

        assert await first == await answer(it, CAT)


async def test_a_text_model_refuses_images_before_it_fetches_them() -> None:
    engine = create_engine("fake", config())
    await engine.start()
    handler = create_handler(Role.AGGREGATED, intake(engine, None))
    with pytest.raises(InvalidRequestError, match="reads text only"):
        await one(handler, question("https://10.0.0.1/a.png"))
    await engine.close()


def test_only_images_are_read_and_each_has_a_url() -> None:
    assert image_urls(None) == image_urls({"image_url": [], "video_url": []}) == []
    assert image_urls({"image_url": [{"Url": "a"}, {"Url": "b"}]}) == ["a", "b"]
    with pytest.raises(InvalidRequestError, match="text and images only"):
        image_urls({"audio_url": [{"Url": "a"}]})


def test_the_options_about_images_become_a_policy() -> None:
    options = [
        "--model",
        "m",
        "--media-schemes",
        "https,http",
        "--allow-media-host",
        "A.local,10.0.0.0/8",
    ]
    resolved: WorkerConfig = load_config([*options, "--max-file-size-mb", "1.5"], {}).config

    policy = resolved.media_policy()

    assert policy.schemes == {"https", "http"}
    assert policy.allowed_hosts == {"a.local", "10.0.0.0/8"}
    assert (policy.max_bytes, policy.max_images) == (1_500_000, 16)


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--media-schemes", "https,file", "some of data, https, http"),
        ("--encode-endpoint", "encode", "NAMESPACE.COMPONENT.ENDPOINT"),
        ("--encode-endpoint", "dyn://a..b", "NAMESPACE.COMPONENT.ENDPOINT"),
        ("--media-max-pixels", "0", ">= 1"),
        ("--media-timeout-s", "soon", "a number"),
    ],
)
def test_wrong_options_about_images_name_the_flag_and_what_was_expected(
    flag: str, value: str, words: str
) -> None:
    with pytest.raises(OptionError) as raised:
        load_config(["--model", "m", flag, value], {})

    assert flag in str(raised.value)
    assert words in str(raised.value)


def test_the_encode_role_has_a_component_of_its_own() -> None:
    resolved = load_config(["--model", "m", "--role", "encode"], {"DYN_NAMESPACE": "n"}).config

    assert resolved.endpoint_path == ("n", "encode", "generate")
