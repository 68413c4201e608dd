"""The images that a request names, at their places in its prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from shepherd_worker.errors import InvalidRequestError, OverloadedError
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


class ImagePlaces:
    """How many requests hold images: pixels weigh a thousand times what tokens do.

    Event loop only.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._num_taken = 0

    @contextmanager
    def taken(self, *, by_images: bool) -> Iterator[None]:
        """Hold a place within the block, if there are images at all.

        Raises:
            OverloadedError: every place is taken.
        """
        if by_images and self._num_taken >= self._limit:
            raise OverloadedError(self._num_taken, self._limit)
        self._num_taken += by_images
        try:
            yield
        finally:
            self._num_taken -= by_images


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
