"""Pictures on their way into TensorRT-LLM: counted by its own processor, handed over as it wants them.

A client's picture comes through our media guard and is given to TensorRT-LLM as a
picture, with one placeholder in the prompt: it resizes, normalises and expands
itself.  We only ask how many tokens that makes, so that a prompt's length, its
block hashes and the client's bill are known before.  Embeddings that an encode
worker computed go in the picture's place, beside the prompt's text.
"""

from __future__ import annotations

from array import array
from typing import Any

from tokenizers import Tokenizer

from shepherd_worker.engine.trtllm.library import Library
from shepherd_worker.engine.trtllm.model import ModelFiles
from shepherd_worker.errors import EngineFailedError, InvalidRequestError
from shepherd_worker.image import Array, DecodedImage, PreparedImage, pixel_digest
from shepherd_worker.request import GenerateRequest

_RGB = "rgb"
_TRIAL = DecodedImage(64, 64, bytes(64 * 64 * 3))


class TrtllmImageProcessor:
    """An `ImageProcessor` that leaves pictures as they are; any thread."""

    def __init__(self, counter: Any, image_token_id: int) -> None:
        """`counter` is TensorRT-LLM's input processor."""
        self._counter = counter
        self.image_token_id = image_token_id

    def process(self, image: DecodedImage) -> PreparedImage:
        """See `ImageProcessor.process`."""
        pixels = {_RGB: Array("uint8", (image.height, image.width, 3), image.rgb)}
        try:
            num_tokens = int(self._counter.get_num_tokens_per_image(image=picture(pixels)))
        except ValueError as error:
            size = f"{image.width}x{image.height}"
            raise InvalidRequestError("image_url", size, f"another shape: {error}") from error
        return PreparedImage(digest=pixel_digest(pixels), num_tokens=num_tokens, pixels=pixels)


def load_processor(library: Library, model: ModelFiles, tokenizer: Any) -> TrtllmImageProcessor:
    """The processor of a model that has an image token; `tokenizer` is TensorRT-LLM's.

    Raises:
        EngineFailedError: this version's does not work, or cannot count.
    """
    assert model.vision is not None
    try:
        counter = library.create_input_processor(str(model.directory), tokenizer)
        processor = TrtllmImageProcessor(counter, model.vision.image_token_id)
        processor.process(_TRIAL)
    except Exception as error:
        raise EngineFailedError(
            f"TensorRT-LLM's input processor for {model.directory} does not work: {error!r}"
        ) from error
    return processor


def picture(pixels: Any) -> Any:
    """The picture that `TrtllmImageProcessor` kept, as Pillow has it."""
    from PIL.Image import frombytes  # noqa: PLC0415 - text-only workers have no Pillow

    rgb: Array = pixels[_RGB]
    height, width, _ = rgb.shape
    return frombytes("RGB", (width, height), bytes(rgb.data))


def inputs_of(request: GenerateRequest, tokenizer: Tokenizer | None) -> Any:
    """What `generate_async` is given as its inputs.

    Raises:
        InvalidRequestError: embeddings, and no tokenizer to write the prompt's text with.
    """
    if not request.images:
        return list(request.token_ids)
    token_ids = _with_one_placeholder_each(request)
    images = [placed.image for placed in request.images]
    if not all(image.embeddings is not None for image in images):
        pictures = [picture(image.pixels) for image in images]
        return {
            "prompt_token_ids": token_ids,
            "multi_modal_data": {"image": pictures},
            "mm_processor_kwargs": {},
        }
    if tokenizer is None:
        raise InvalidRequestError("image_url", len(images), "none: the engine has no tokenizer")
    tensors = [_tensor(image.embeddings) for image in images if image.embeddings is not None]
    return {
        "prompt": tokenizer.decode(token_ids, skip_special_tokens=False),
        "multi_modal_embeddings": {"image": tensors},
        "mm_processor_kwargs": {},
    }


def _with_one_placeholder_each(request: GenerateRequest) -> list[int]:
    """The prompt as the client's template wrote it."""
    kept, start = array("I"), 0
    for placed in request.images:
        kept += request.token_ids[start : placed.offset + 1]
        start = placed.stop
    return (kept + request.token_ids[start:]).tolist()


def _tensor(values: Array) -> Any:
    import torch  # noqa: PLC0415 - only where there are embeddings

    kind = getattr(torch, values.dtype)
    return torch.frombuffer(bytearray(values.data), dtype=kind).view(values.shape)
