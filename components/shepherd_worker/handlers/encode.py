"""Images to embeddings, kept for the worker that asked to fetch."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from shepherd_worker.engine.vision import Encodes
from shepherd_worker.errors import InvalidRequestError
from shepherd_worker.handlers.images import ImageSource
from shepherd_worker.handlers.intake import Intake
from shepherd_worker.image_wire import (
    EncodeAnswer,
    Refusal,
    image_urls,
    render_encode_answer,
)
from shepherd_worker.inflight import CallContext
from shepherd_worker.request import FinishReason


class EncodeHandler:
    """Fetches and encodes the images of a request; answers with where their embeddings wait.

    A picture that is refused is an answer too: whoever asked must tell its client
    why, and not try again.
    """

    def __init__(self, intake: Intake) -> None:
        """
        Raises:
            TypeError: the engine does not encode.
        """
        if not isinstance(intake.engine, Encodes) or intake.images is None:
            raise TypeError("the encode role needs an engine that encodes images")
        self._intake = intake
        self._encoder: Encodes = intake.engine
        self._images: ImageSource = intake.images

    def generate(
        self, request: dict[str, Any], context: CallContext
    ) -> AsyncIterator[dict[str, Any]]:
        """See `Handler.generate`; yields one chunk."""
        return self._intake.observed(self._answer(request), request, context)

    async def _answer(self, request: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        try:
            urls = image_urls(request.get("multi_modal_data"))
            with self._intake.places.taken(by_images=bool(urls)):
                images = await self._images.load(urls)
                encoded = [await self._encoder.encode(image) for image in images]
            answer = EncodeAnswer(images=encoded)
        except InvalidRequestError as error:
            answer = EncodeAnswer(refused=Refusal(error.field, str(error.value), error.expected))
        chunk = {"token_ids": [], "index": 0, "finish_reason": FinishReason.STOP.value}
        yield {**chunk, **render_encode_answer(answer)}
