"""Questions about images with TensorRT-LLM, which an encode worker of its kind looks at first."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from media_server import data_url
from openai_client import Client
from shepherd_cli.stack import Stack
from tiny_vision_models import make_tiny_vision_model, picture
from trtllm_fake import fake_environment

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
CAT, DOG = picture(1, 24, 16), picture(2, 24, 16)


def question(url: str) -> list[dict[str, object]]:
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what?"}]
    return [{"role": "user", "content": parts}]


async def test_pictures_and_embeddings_give_the_same_answers(
    stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory: Path = make_tiny_vision_model(tmp_path_factory.mktemp("m") / "qwen2_vl", "qwen2_vl")
    environment = fake_environment(runner="fake") | {"SHEPHERD_BLOCK_SIZE": "4"}
    args = ("--model", str(directory), "--served-model-name")
    endpoint = ("--encode-endpoint", "dyn://shepherd.encode.generate")
    async with asyncio.TaskGroup() as tasks:
        frontend = tasks.create_task(stack.frontend())
        for name, more in (
            ("encode", ("--role", "encode")),
            ("seeing", ("--component", "seeing", *endpoint)),
            ("alone", ("--component", "alone")),
        ):
            tasks.create_task(stack.worker(name, *args, name, *more, env=environment))
    seeing, alone = (Client(stack, frontend.result(), name) for name in ("seeing", "alone"))
    for client in (seeing, alone):
        await stack.model_served(frontend.result(), client.model)

    async def answer(client: Client, url: str) -> str:
        told = await client.chat(question(url), max_tokens=12, ignore_eos=True)
        text: str = told["choices"][0]["message"]["content"]
        return text

    cats = [await answer(client, data_url(CAT)) for client in (seeing, alone)]
    dogs = [await answer(client, data_url(DOG)) for client in (seeing, alone)]
    body = {"messages": question("https://10.0.0.1/a.png")}
    status, refusal = await alone.post("chat/completions", body)

    log = (stack.run_dir / "seeing.log").read_text()
    assert "images here" not in log, "the encode worker answered"
    assert cats[0] == cats[1] != dogs[0] == dogs[1]
    assert (status, "public internet" in refusal["message"]) == (400, True)
