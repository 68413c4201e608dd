"""Images that an encode worker fetched and encoded; ours to encode where that fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Protocol

from shepherd_worker.engine.protocol import Engine
from shepherd_worker.errors import EncodeWorkerError
from shepherd_worker.handlers.images import ImageSource
from shepherd_worker.image import PreparedImage
from shepherd_worker.image_wire import parse_encode_answer, render_encode_request
from shepherd_worker.telemetry import ImageMetrics

log = logging.getLogger(__name__)

ENCODE_TIMEOUT_S = 30.0
"""How long an encode worker may take for all images of a request."""


class EncodeWorkers(Protocol):
    """The encode workers that there are, whichever answers."""

    async def encode(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer of one of them.

        Raises:
            EncodeWorkerError: there is none, or it failed.
        """
        ...


class RemoteImages:
    """An `ImageSource` before another one, which does the work when nobody else will."""

    def __init__(
        self, workers: EncodeWorkers, engine: Engine, local: ImageSource, metrics: ImageMetrics
    ) -> None:
        self._workers = workers
        self._engine = engine
        self._local = local
        self._metrics = metrics

    @property
    def image_token_id(self) -> int:
        """See `ImageSource.image_token_id`."""
        return self._local.image_token_id

    async def load(self, urls: Sequence[str]) -> list[PreparedImage]:
        """See `ImageSource.load`."""
        try:
            async with asyncio.timeout(ENCODE_TIMEOUT_S):
                images = await self._ask(urls)
        except (EncodeWorkerError, TimeoutError) as error:
            log.warning("encoding %d images here: %r", len(urls), error)
            self._metrics.fallbacks.inc()
            return await self._local.load(urls)
        self._metrics.remote.inc(len(images))
        return images

    async def _ask(self, urls: Sequence[str]) -> list[PreparedImage]:
        answer = await self._workers.encode(render_encode_request(urls))
        encoded = parse_encode_answer(answer)
        if len(encoded) != len(urls):
            raise EncodeWorkerError(f"asked for {len(urls)} images, got {len(encoded)}")
        images = []
        for image in encoded:
            embeddings = await self._engine.fetch_embeddings(image)
            if embeddings is None:
                raise EncodeWorkerError("its embeddings cannot be fetched")
            images.append(
                PreparedImage(
                    digest=bytes.fromhex(image.digest),
                    num_tokens=image.num_tokens,
                    grid=image.grid,
                    embeddings=embeddings,
                )
            )
        return images
