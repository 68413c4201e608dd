"""Questions about an image, beside transformers' `generate`; the second one finds the image.

A random LLaVA: the language model of the other sections and a vision tower of
256 patches.  Measured is the time to the first token from pixels on, for a prompt
of 256 image tokens and 64 of text; the second question has other words after
the same image.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from benchmarks.figure import Figure, compare
from benchmarks.workload import SMALL, VOCABULARY, random_prompts, started
from shepherd_worker.engine.embedded.model.vision import to_tensor
from shepherd_worker.engine.protocol import Engine
from shepherd_worker.image import DecodedImage, PreparedImage, place_images
from shepherd_worker.request import GenerateRequest, Sampling, StopConditions

SIZE, PATCH, TEXT = 224, 14, 64
IMAGE_TOKEN = VOCABULARY - 1
GOAL_FIRST, GOAL_SECOND = 1.0, 3.0


def figures(rounds: int) -> list[Figure]:
    """Seconds to the first token."""
    with _random_llava() as directory:
        return asyncio.run(_measure(directory, rounds))


async def _measure(directory: str, rounds: int) -> list[Figure]:
    reference = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32)
    peer: list[float] = []
    first: list[float] = []
    second: list[float] = []
    async with started(directory, num_kv_blocks=512) as engine:
        for round_ in range(rounds + 1):  # the first one warms up
            image = _image(engine, round_)
            one, other = random_prompts(2, TEXT, seed=13_000 + round_)
            peer.append(_generate(reference.eval(), _request(image, one)))
            first.append(await _ask(engine, _request(image, one)))
            second.append(await _ask(engine, _request(image, other)))
    rows = {
        "first question about an image": (first, GOAL_FIRST),
        "second question about it": (second, GOAL_SECOND),
    }
    return [
        compare(
            name,
            ours[1:],
            peer[1:],
            peer_name="transformers generate",
            unit="s",
            goal=goal,
            less_is_better=True,
        )
        for name, (ours, goal) in rows.items()
    ]


def _image(engine: Engine, seed: int) -> PreparedImage:
    processor = engine.image_processor()
    assert processor is not None
    noise = Random(seed).randbytes(SIZE * SIZE * 3)  # noqa: S311 - pixels, not secrets
    return processor.process(DecodedImage(SIZE, SIZE, noise))


def _request(image: PreparedImage, text: list[int]) -> GenerateRequest:
    words = [token % IMAGE_TOKEN for token in text]
    token_ids, images = place_images(array("I", [IMAGE_TOKEN, *words]), [image], IMAGE_TOKEN)
    return GenerateRequest(
        request_id="bench",
        token_ids=token_ids,
        images=images,
        sampling=Sampling(temperature=0.0),
        stops=StopConditions(max_tokens=1, ignore_eos=True),
    )


async def _ask(engine: Engine, request: GenerateRequest) -> float:
    began = time.perf_counter()
    async for _ in engine.generate(request):
        pass
    return time.perf_counter() - began


@torch.inference_mode()
def _generate(model: Any, request: GenerateRequest) -> float:
    prompt = torch.tensor([request.token_ids.tolist()])
    (placed,) = request.images
    pixels = to_tensor(placed.image.pixels["pixel_values"])
    began = time.perf_counter()
    model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        pixel_values=pixels,
        max_new_tokens=1,
        do_sample=False,
        pad_token_id=0,
    )
    return time.perf_counter() - began


@contextmanager
def _random_llava() -> Iterator[str]:
    torch.manual_seed(0)
    text = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=4096, **SMALL)
    vision = CLIPVisionConfig(
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=8,
        num_attention_heads=8,
        image_size=SIZE,
        patch_size=PATCH,
        projection_dim=512,
    )
    config = LlavaConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=IMAGE_TOKEN,
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = None
    with tempfile.TemporaryDirectory(prefix="shepherd-bench-") as directory:
        model.save_pretrained(directory)
        processor = {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"height": SIZE, "width": SIZE},
            "do_center_crop": False,
        }
        (Path(directory) / "preprocessor_config.json").write_text(json.dumps(processor))
        yield directory
