"""Questions about images through Dynamo's frontend, whole and in parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from media_server import MediaServer, data_url, media_server, png
from openai_client import MODEL, Client
from shepherd_cli.stack import Service, Stack
from tiny_vision_models import make_tiny_vision_model, picture

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
CAT, DOG = picture(1, 24, 16), picture(2, 24, 16)
MEDIA = ("--media-schemes", "data,https,http", "--media-allow-hosts", "127.0.0.1")


def question(*urls: str, text: str = "what does the shepherd see?") -> list[dict[str, Any]]:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def text_of(answer: dict[str, Any]) -> str:
    text: str = answer["choices"][0]["message"]["content"]
    return text


def cached(answer: dict[str, Any]) -> int:
    count: int = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    return count


@pytest.fixture(scope="module")
def vision_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_vision_model(tmp_path_factory.mktemp("models") / "qwen2_vl", "qwen2_vl")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def frontend(stack: Stack) -> Service:
    return await stack.frontend()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(stack: Stack, frontend: Service, vision_dir: Path) -> Client:
    args = ("--model", str(vision_dir), "--served-model-name", MODEL, "--block-size", "4")
    await stack.worker("worker", *args, *MEDIA)
    await stack.model_served(frontend, MODEL)
    return Client(stack, frontend, MODEL)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[MediaServer]:
    async with media_server(png(CAT)) as state:
        yield state


async def test_another_image_is_another_answer_and_the_same_one_is_found(client: Client) -> None:
    cat = await client.chat(question(data_url(CAT)))
    dog = await client.chat(question(data_url(DOG)))
    again = await client.chat(question(data_url(CAT)))

    assert text_of(cat) == text_of(again) != text_of(dog)
    assert cached(dog) < cached(again)
    assert cached(again) >= again["usage"]["prompt_tokens"] - 4


async def test_a_picture_is_the_same_by_url_and_as_data(
    client: Client, server: MediaServer
) -> None:
    inline = await client.chat(question(data_url(CAT)))
    fetched = await client.chat(question(server.url("hop/1")))

    assert text_of(fetched) == text_of(inline)
    assert cached(fetched) >= fetched["usage"]["prompt_tokens"] - 4


async def test_images_may_be_several_and_stand_in_earlier_turns(client: Client) -> None:
    first = await client.chat(question(data_url(CAT), data_url(DOG)))
    history = [
        *question(data_url(CAT), data_url(DOG)),
        {"role": "assistant", "content": text_of(first)},
        *question(data_url(DOG), text="and now?"),
    ]

    second = await client.chat(history)

    assert cached(second) >= first["usage"]["prompt_tokens"] - 4
    assert text_of(await client.chat(question(data_url(DOG), data_url(CAT)))) != text_of(first)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://example.com/a.png", "a url of data:, http:, https:"),
        ("http://169.254.169.254/latest/meta-data", "public internet"),
        ("http://10.0.0.1/a.png", "public internet"),
        ("data:image/png;base64,AAAA", "a picture in png"),
        ("data:text/html;base64,AAAA", "data:image"),
    ],
)
async def test_a_url_that_is_refused_is_a_400_that_says_why(
    client: Client, url: str, words: str
) -> None:
    status, answer = await client.post("chat/completions", {"messages": question(url)})

    assert status == 400, answer
    assert words in answer["message"].lower()
    assert "image_url" in answer["message"]


async def test_a_prompt_with_another_number_of_places_is_a_400(client: Client) -> None:
    messages = question(data_url(CAT), text="and <|image|>?")

    status, answer = await client.post("chat/completions", {"messages": messages})

    assert status == 400, answer
    assert "as many as the prompt has placeholders" in answer["message"]


async def test_prefill_and_decode_give_the_same_answer(
    client: Client, stack: Stack, frontend: Service, vision_dir: Path
) -> None:
    args = ("--model", str(vision_dir), "--served-model-name", "split", "--block-size", "4")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(stack.worker("prefill", *args, "--role", "prefill"))
        where = ("--role", "decode", "--component", "split")
        tasks.create_task(stack.worker("decode", *args, *where))
    await stack.model_served(frontend, "split")
    split = Client(stack, frontend, "split")

    for messages in (question(data_url(CAT)), question(data_url(DOG), data_url(CAT))):
        assert text_of(await split.chat(messages)) == text_of(await client.chat(messages))


async def metric(stack: Stack, worker: Service, name: str) -> float:
    async with stack.http.get(worker.url + "/metrics") as response:
        for line in (await response.text()).splitlines():
            if line.startswith(name):
                return float(line.split()[-1])
    raise AssertionError(f"no metric {name}")


async def test_an_encode_worker_changes_nothing_while_it_is_there_and_when_it_dies(
    client: Client, stack: Stack, frontend: Service, vision_dir: Path, server: MediaServer
) -> None:
    args = ("--model", str(vision_dir), "--served-model-name", "seeing", "--block-size", "4")
    async with asyncio.TaskGroup() as tasks:
        starting = stack.worker("encode", *args, *MEDIA, "--role", "encode")
        encoding = tasks.create_task(starting)
        where = ("--component", "seeing", "--encode-endpoint", "dyn://shepherd.encode.generate")
        asking = tasks.create_task(stack.worker("seeing", *args, *MEDIA, *where))
    encode, worker = encoding.result(), asking.result()
    await stack.model_served(frontend, "seeing")
    seeing = Client(stack, frontend, "seeing")
    asked = [
        question(data_url(CAT)),
        question(data_url(DOG), server.url("cat.png")),
        question(data_url(CAT), text="and now?"),
    ]

    for messages in asked:
        assert text_of(await seeing.chat(messages)) == text_of(await client.chat(messages))
    status, answer = await seeing.post(
        "chat/completions", {"messages": question("http://10.0.0.1/a.png")}
    )

    assert (status, "public internet" in answer["message"]) == (400, True)
    assert await metric(stack, worker, "shepherd_worker_images_remote_total") == 4
    assert await metric(stack, worker, "shepherd_worker_images_encoded_total") == 1  # the trial
    assert await metric(stack, worker, "shepherd_worker_encode_fallbacks_total") == 0
    assert await metric(stack, encode, "shepherd_worker_images_encoded_total") == 3
    assert await metric(stack, encode, "shepherd_worker_embeddings_found_total") == 2

    encode.process.kill()
    fresh = question(data_url(picture(5, 24, 16)))

    assert text_of(await seeing.chat(fresh)) == text_of(await client.chat(fresh))
    assert await metric(stack, worker, "shepherd_worker_encode_fallbacks_total") == 1
    assert await metric(stack, worker, "shepherd_worker_images_encoded_total") == 2
