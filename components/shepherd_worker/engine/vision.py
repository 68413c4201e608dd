"""What an engine's vision half promises: pictures in, embeddings out.

    DecodedImage --ImageProcessor.process--> PreparedImage --VisionTower.encode--> Array

Preparing is cheap and may run in any thread; encoding is a forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from shepherd_worker.image import Array, DecodedImage, PreparedImage, VisionLimits

if TYPE_CHECKING:
    from shepherd_worker.engine.protocol import EncodedImage


class ImageProcessor(Protocol):
    """Resizes and normalises pictures as a model was trained with them."""

    @property
    def image_token_id(self) -> int:
        """The placeholder that a chat template writes for an image."""
        ...

    def process(self, image: DecodedImage) -> PreparedImage:
        """The same picture gives the same digest on every worker of a model; from any thread.

        Raises:
            InvalidRequestError: the picture has no shape that the model takes.
        """
        ...


class VisionTower(Protocol):
    """Turns prepared images into what the language model reads in place of tokens; one thread's."""

    def encode(self, image: PreparedImage) -> Array:
        """Embeddings [num_tokens, hidden_size] of an image that has its pixels."""
        ...

    def image_counts(self) -> ImageCounts:
        """Cheap; from any thread."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCounts:
    """What became of images; totals count from the start."""

    encoded_total: int = 0
    """Passes through the vision tower."""
    found_total: int = 0
    """Times that embeddings were still there."""
    cache_bytes: int = 0
    """Embeddings that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderInfo:
    """What a loaded image encoder is."""

    version: str
    model_directory: str
    vision: VisionLimits
    vocab_size: int
    max_seq_len: int
    eos_token_ids: frozenset[int]


class ImageEncoder(VisionTower, Protocol):
    """The vision half of a model without the other half."""

    def load(self) -> EncoderInfo:
        """Get ready.

        Raises:
            StartError: the model is missing, broken, or reads text only.
        """
        ...

    def image_processor(self) -> ImageProcessor:
        """What prepares images, once loaded."""
        ...


@runtime_checkable
class Encodes(Protocol):
    """An engine that offers embeddings to other workers."""

    async def encode(self, image: PreparedImage) -> EncodedImage:
        """The embeddings of an image, leased to whoever knows the ticket.

        Raises:
            OverloadedError: the worker is leaving.
            EngineDeadError: it has left.
        """
        ...
