"""Images on their way into a prompt, without torch and without Pillow.

    DecodedImage      the picture as a client sent it: RGB bytes
    PreparedImage     what the vision tower is given, or has given, and how many tokens that is
    ImageInput        a prepared image at its place in a prompt

A frontend's tokens hold one placeholder per image; `place_images` alone repeats
it once per token of the image, so that every place of the prompt has its own KV.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from shepherd_events.events import MediaSpan
from shepherd_worker.errors import InvalidRequestError

DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class Array:
    """A dense array as bytes, to cross threads, processes and machines."""

    dtype: str
    """torch's and numpy's name of the element type, such as `float32` or `int64`."""
    shape: tuple[int, ...]
    data: bytes | bytearray | memoryview = field(repr=False)
    """Row-major, little-endian; owned by the array, never changed."""


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A picture in RGB, 8 bits a channel."""

    width: int
    height: int
    rgb: bytes = field(repr=False)
    """`height * width * 3` bytes, row by row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedImage:
    """An image as the model wants it; at least one of `pixels` and `embeddings` is there."""

    digest: bytes
    """Of `pixels`: images of one digest have the same embeddings and share KV blocks."""
    num_tokens: int
    """Placeholders that it takes in a prompt."""
    grid: tuple[int, int, int] | None = None
    """Frames, rows and columns of its tokens, where the model gives each a place of its own."""
    pixels: Mapping[str, Array] = field(default_factory=dict)
    """What the vision tower is called with, by argument."""
    embeddings: Array | None = None
    """[num_tokens, hidden_size], where another worker has encoded it."""


@dataclass(frozen=True, slots=True)
class ImageInput:
    """An image at its place in a prompt."""

    image: PreparedImage
    offset: int
    """The prompt's first token that stands for it."""

    @property
    def stop(self) -> int:
        """The first token after it."""
        return self.offset + self.image.num_tokens

    @property
    def span(self) -> MediaSpan:
        """What of it enters the hash of a block."""
        return MediaSpan(self.image.digest, self.offset, self.image.num_tokens)


@dataclass(frozen=True, slots=True)
class VisionLimits:
    """What an image must look like to a model."""

    image_token_id: int
    hidden_size: int
    """Width of an embedding."""
    fingerprint: bytes
    """32 bytes, equal where embeddings are interchangeable."""


def pixel_digest(pixels: Mapping[str, Array]) -> bytes:
    """The content address of what a vision tower is given."""
    digest = blake2b(digest_size=DIGEST_BYTES, person=b"shepherd.image.1")
    for name in sorted(pixels):
        values = pixels[name]
        digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
        digest.update(values.data)
    return digest.digest()


def place_images(
    token_ids: array[int], images: Sequence[PreparedImage], image_token_id: int
) -> tuple[array[int], tuple[ImageInput, ...]]:
    """The prompt with each placeholder repeated once per token of its image.

    Raises:
        InvalidRequestError: the prompt has not one placeholder per image.
    """
    found = token_ids.count(image_token_id)
    if found != len(images):
        raise InvalidRequestError(
            "image_url",
            f"{len(images)} images",
            f"as many as the prompt has placeholders (token {image_token_id}): {found}",
        )
    expanded, placed = array("I"), list[ImageInput]()
    start = 0
    for image in images:
        at = token_ids.index(image_token_id, start)
        expanded += token_ids[start:at]
        placed.append(ImageInput(image, len(expanded)))
        expanded += array("I", [image_token_id]) * image.num_tokens
        start = at + 1
    expanded += token_ids[start:]
    return expanded, tuple(placed)
