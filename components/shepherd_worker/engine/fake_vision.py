"""The vision half of the fake engine: every picture's embeddings can be predicted.

An image takes one token per 16 by 16 pixels, rounded up, and an embedding is one
32-bit number that depends on the picture and on the token's place in it.
"""

from __future__ import annotations

from array import array
from hashlib import blake2b

from shepherd_worker.image import Array, DecodedImage, PreparedImage, pixel_digest

PATCH_SIZE = 16
HIDDEN_SIZE = 1


class FakeImageProcessor:
    """An `ImageProcessor` that changes nothing."""

    def __init__(self, image_token_id: int) -> None:
        self.image_token_id = image_token_id

    def process(self, image: DecodedImage) -> PreparedImage:
        """See `ImageProcessor.process`."""
        rows, columns = -(-image.height // PATCH_SIZE), -(-image.width // PATCH_SIZE)
        pixels = {"rgb": Array("uint8", (image.height, image.width, 3), image.rgb)}
        return PreparedImage(
            digest=pixel_digest(pixels),
            num_tokens=rows * columns,
            grid=(1, rows, columns),
            pixels=pixels,
        )


class FakeVisionTower:
    """A `VisionTower` that computes nothing."""

    def encode(self, image: PreparedImage) -> Array:
        """See `VisionTower.encode`."""
        values = array("I", (_embedding(image.digest, at) for at in range(image.num_tokens)))
        return Array("uint32", (image.num_tokens, HIDDEN_SIZE), values.tobytes())


def _embedding(digest: bytes, place: int) -> int:
    seed = digest + place.to_bytes(4, "little")
    return int.from_bytes(blake2b(seed, digest_size=4, person=b"shepherd.fakeimg").digest())
