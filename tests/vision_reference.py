"""Prompts with pictures, and what transformers' own `generate` answers to them in float32."""

from __future__ import annotations

import functools
from array import array
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from engine_calls import request
from shepherd_worker.engine.embedded.model.vision import to_tensor
from shepherd_worker.engine.vision import ImageProcessor
from shepherd_worker.image import DecodedImage, PreparedImage, place_images
from shepherd_worker.request import GenerateRequest
from tiny_vision_models import VisionKind, picture, tiny_vision_model

KINDS: tuple[VisionKind, ...] = ("llava", "qwen2_vl", "qwen2_5_vl")
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
def reference(kind: VisionKind, device: str) -> Any:
    torch.set_num_threads(1)
    directory = tiny_vision_model(kind)
    model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32)
    return model.to(device).eval()


def generated(kind: VisionKind, call: GenerateRequest, device: str = "cpu") -> list[int]:
    """What transformers answers."""
    model, prompt = reference(kind, device), torch.tensor([call.token_ids.tolist()], device=device)
    given: dict[str, Any] = {}
    for placed in call.images:
        for name, values in placed.image.pixels.items():
            given.setdefault(name, []).append(to_tensor(values))
    given = {name: torch.cat(values).to(device) for name, values in given.items()}
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
