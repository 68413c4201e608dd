"""The images that a request names, at their places in its prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from shepherd_worker.errors import InvalidRequestError
from shepherd_worker.image import PreparedImage, place_images
from shepherd_worker.request import GenerateRequest


class ImageSource(Protocol):
    """Where images come from: prepared in this process, or encoded by another worker."""

    @property
    def image_token_id(self) -> int:
        """The placeholder that a prompt has for each image."""
        ...

    async def load(self, urls: Sequence[str]) -> list[PreparedImage]:
        """One image per URL, in order.

        Raises:
            InvalidRequestError: one of them is refused or broken, or there are too many.
        """
        ...


async def with_images(
    call: GenerateRequest, urls: Sequence[str], source: ImageSource | None
) -> GenerateRequest:
    """The request with its images; `source` is None where the model reads text only.

    Raises:
        InvalidRequestError: as `ImageSource.load`, or the prompt has another number of places.
    """
    if not urls:
        return call
    if source is None:
        raise InvalidRequestError(
            "image_url", f"{len(urls)} images", "none: this model reads text only"
        )
    images = await source.load(urls)
    token_ids, placed = place_images(call.token_ids, images, source.image_token_id)
    return dataclasses.replace(call, token_ids=token_ids, images=placed)
