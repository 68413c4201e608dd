"""The vision half of the fake engine: every picture's embeddings can be predicted.

An image takes one token per 16 by 16 pixels, rounded up, and an embedding is one
32-bit number that depends on the picture and on the token's place in it.
"""

from __future__ import annotations

import json
from array import array
from hashlib import blake2b
from pathlib import Path

from shepherd_worker.engine.embedding_cache import EmbeddingCache
from shepherd_worker.engine.protocol import EngineConfig
from shepherd_worker.engine.vision import EncoderInfo, ImageCounts
from shepherd_worker.errors import EngineFailedError
from shepherd_worker.image import Array, DecodedImage, PreparedImage, VisionLimits, pixel_digest

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
    """A `VisionTower` that computes nothing, and keeps it."""

    def __init__(self, cache_bytes: int) -> None:
        self._cache: EmbeddingCache[Array] = EmbeddingCache(cache_bytes)
        self._num_encoded = 0

    def encode(self, image: PreparedImage) -> Array:
        """See `VisionTower.encode`."""
        kept = self._cache.get(image.digest)
        if kept is not None:
            return kept
        embeddings = image.embeddings
        if embeddings is None:
            self._num_encoded += 1
            values = array("I", (_embedding(image.digest, at) for at in range(image.num_tokens)))
            embeddings = Array("uint32", (image.num_tokens, HIDDEN_SIZE), values.tobytes())
        self._cache.put(image.digest, embeddings, len(embeddings.data))
        return embeddings

    def image_counts(self) -> ImageCounts:
        """See `VisionTower.image_counts`."""
        return ImageCounts(
            encoded_total=self._num_encoded,
            found_total=self._cache.hits_total,
            cache_bytes=self._cache.num_bytes,
        )


class FakeImageEncoder(FakeVisionTower):
    """An `ImageEncoder` for the models that `FakeEngine` takes images for."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config.embedding_cache_bytes)
        self._config = config
        self._processor: FakeImageProcessor

    def load(self) -> EncoderInfo:
        """See `ImageEncoder.load`."""
        file = Path(self._config.model) / "config.json"
        image_token_id = json.loads(file.read_text()).get("image_token_id")
        if image_token_id is None:
            raise EngineFailedError(f"{file} names no image_token_id: there is nothing to encode")
        self._processor = FakeImageProcessor(image_token_id)
        return EncoderInfo(
            version="1",
            model_directory=self._config.model,
            vision=vision_limits(self._config, image_token_id),
            vocab_size=image_token_id + 1,
            max_seq_len=self._config.max_seq_len or 2,
            eos_token_ids=frozenset(),
        )

    def image_processor(self) -> FakeImageProcessor:
        """See `ImageEncoder.image_processor`."""
        return self._processor


def vision_limits(config: EngineConfig, image_token_id: int) -> VisionLimits:
    """What the fake engine takes for an image."""
    name = Path(config.model).name
    identity = blake2b(f"{name}/embeddings".encode(), digest_size=32)
    return VisionLimits(image_token_id, HIDDEN_SIZE, identity.digest())


def _embedding(digest: bytes, place: int) -> int:
    seed = digest + place.to_bytes(4, "little")
    return int.from_bytes(blake2b(seed, digest_size=4, person=b"shepherd.fakeimg").digest())
