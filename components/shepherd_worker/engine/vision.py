"""What an engine's vision half promises: pictures in, embeddings out.

    DecodedImage --ImageProcessor.process--> PreparedImage --VisionTower.encode--> Array

Preparing is cheap and may run in any thread; encoding is a forward pass.
"""

from __future__ import annotations

from typing import Protocol

from shepherd_worker.image import Array, DecodedImage, PreparedImage


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
    """Turns prepared images into what the language model reads in place of tokens."""

    def encode(self, image: PreparedImage) -> Array:
        """Embeddings [num_tokens, hidden_size] of an image that has its pixels."""
        ...
