"""How TensorRT-LLM takes images: it resizes and expands by itself, and writes tokens of its own for them.

The embedded engine behind it wants placeholders of the vocabulary and prepared
images; `expand` makes those of what `generate_async` was given.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from shepherd_worker.engine.fake_vision import FakeImageProcessor
from shepherd_worker.image import Array, DecodedImage, ImageInput, PreparedImage, place_images
from shepherd_worker.request import GenerateRequest

COMPUTED: dict[bytes, GenerateRequest] = {}
"""Prompts with images by the state that a context worker gave: what its KV holds."""


class InputProcessor:
    """Expands the prompts of one model."""

    def __init__(self, directory: str, tokenizer: Any) -> None:
        del tokenizer  # nothing here needs it
        settings = json.loads((Path(directory) / "config.json").read_text())
        self._directory = Path(directory)
        self._image_token_id: int = settings["image_token_id"]
        text = settings.get("text_config", settings)
        self._own_token_id = text["vocab_size"] + 1
        self.hidden_size: int = text["hidden_size"]
        self._processor = FakeImageProcessor(self._image_token_id)

    def get_num_tokens_per_image(self, *, image: Any) -> int:
        """Tokens of one picture of Pillow's."""
        return self._prepare(image).num_tokens

    def expand(self, inputs: dict[str, Any]) -> tuple[array[int], tuple[ImageInput, ...]]:
        """The prompt with placeholders for every token, and the images at their places."""
        if "multi_modal_embeddings" in inputs:
            tokenizer = Tokenizer.from_file(str(self._directory / "tokenizer.json"))
            token_ids = tokenizer.encode(inputs["prompt"], add_special_tokens=False).ids
            images = [_embedded(each) for each in inputs["multi_modal_embeddings"]["image"]]
        else:
            token_ids = inputs["prompt_token_ids"]
            images = [self._prepare(each) for each in inputs["multi_modal_data"]["image"]]
        return place_images(array("I", token_ids), images, self._image_token_id)

    def own_tokens(self, token_ids: Sequence[int], images: Sequence[ImageInput]) -> list[int]:
        """The prompt as TensorRT-LLM shows it: images have a token beyond the vocabulary."""
        shown = list(token_ids)
        for placed in images:
            shown[placed.offset : placed.stop] = [self._own_token_id] * placed.image.num_tokens
        return shown

    def _prepare(self, image: Any) -> PreparedImage:
        rgb = image.convert("RGB")
        return self._processor.process(DecodedImage(*rgb.size, rgb.tobytes()))


def _embedded(tensor: Any) -> PreparedImage:
    """The fake model reads one number of each embedding."""
    values = array("I", tensor[:, 0].tolist())
    return PreparedImage(
        digest=blake2b(values.tobytes(), digest_size=16).digest(),
        num_tokens=len(values),
        embeddings=Array("uint32", (len(values), 1), values.tobytes()),
    )


def with_images(
    request: GenerateRequest, images: tuple[ImageInput, ...], opaque_state: bytes | None
) -> GenerateRequest:
    """What the engine computes: what was given, or what a context worker computed."""
    if opaque_state is not None and opaque_state in COMPUTED:
        computed = COMPUTED[opaque_state]
        return replace(request, token_ids=computed.token_ids, images=computed.images)
    return replace(request, images=images)
