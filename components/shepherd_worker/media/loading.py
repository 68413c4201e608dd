"""From a client's URLs to images that a model can be given: fetch, decode, prepare."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from shepherd_worker.engine.vision import ImageProcessor
from shepherd_worker.errors import InvalidRequestError
from shepherd_worker.image import PreparedImage
from shepherd_worker.media.decode import decode_image
from shepherd_worker.media.fetch import MediaFetcher
from shepherd_worker.media.policy import FIELD, MediaPolicy, shown

NUM_THREADS = 2
"""Pictures that are decoded at once, however many requests there are."""


class ImageLoader:
    """Owns the threads that pictures are decoded in; event loop only."""

    def __init__(
        self, fetcher: MediaFetcher, policy: MediaPolicy, processor: ImageProcessor
    ) -> None:
        self._fetcher = fetcher
        self._policy = policy
        self._processor = processor
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="shepherd-image")

    @property
    def image_token_id(self) -> int:
        """See `ImageSource.image_token_id`."""
        return self._processor.image_token_id

    async def load(self, urls: Sequence[str]) -> list[PreparedImage]:
        """One image per URL, in order.

        Raises:
            InvalidRequestError: one of them is refused or broken, or there are too many.
        """
        if len(urls) > self._policy.max_images:
            limit = f"at most {self._policy.max_images} images in a request"
            raise InvalidRequestError(FIELD, len(urls), limit)
        try:
            async with asyncio.TaskGroup() as tasks:
                loading = [tasks.create_task(self._load(url)) for url in urls]
        except* InvalidRequestError as errors:
            raise _first(errors) from None
        return [task.result() for task in loading]

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _load(self, url: str) -> PreparedImage:
        data = await self._fetcher.fetch(url)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._prepare, data, shown(url))

    def _prepare(self, data: bytes, url: str) -> PreparedImage:
        image = decode_image(data, url=url, max_pixels=self._policy.max_pixels)
        return self._processor.process(image)


def _first(errors: BaseExceptionGroup[InvalidRequestError]) -> InvalidRequestError:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, InvalidRequestError)
    return error
