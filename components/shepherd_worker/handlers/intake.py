"""What all roles share: reading a request at the door, and seeing it through."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from shepherd_worker.attribution import Attributor
from shepherd_worker.engine.protocol import Engine
from shepherd_worker.handlers.images import ImagePlaces, ImageSource, with_images
from shepherd_worker.image_wire import image_urls
from shepherd_worker.inflight import CallContext, InFlight
from shepherd_worker.media.options import DEFAULT_MAX_REQUESTS
from shepherd_worker.request import Choices, GenerateRequest
from shepherd_worker.telemetry import RequestMetrics
from shepherd_worker.wire import (
    WireRequest,
    is_canary,
    parse_request,
    to_choices,
    to_generate_request,
)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that passed the door."""

    wire: WireRequest
    call: GenerateRequest
    choices: Choices
    """A prefill worker computes the prompt for all of them."""
    canary: bool
    """Dynamo's own health probe: must leave no trace behind."""


Answer = Callable[[Admitted], AsyncGenerator[dict[str, Any], None]]
"""What a role does with an admitted request: chunk dictionaries, the last with `finish_reason`."""


@dataclass(frozen=True, slots=True)
class Intake:
    """The engine, and everything that stands between it and Dynamo's dictionaries."""

    engine: Engine
    attributor: Attributor
    inflight: InFlight
    metrics: RequestMetrics
    images: ImageSource | None = None
    """None where the model reads text only."""
    places: ImagePlaces = field(default_factory=lambda: ImagePlaces(DEFAULT_MAX_REQUESTS))
    """For requests with images."""

    async def serve(
        self, request: dict[str, Any], context: CallContext, answer: Answer
    ) -> AsyncIterator[dict[str, Any]]:
        """Pass on what `answer` makes of a request, and count how that went.

        Raises:
            InvalidRequestError: the dictionary is not a request.
            WorkerError: whatever `answer` raises, and `DrainDeadlineError`.
        """
        chunks = self._answer(request, context, answer)
        async for chunk in self.observed(chunks, request, context):
            yield chunk

    async def observed(
        self,
        chunks: AsyncGenerator[dict[str, Any], None],
        request: dict[str, Any],
        context: CallContext,
    ) -> AsyncIterator[dict[str, Any]]:
        """Pass chunks on until the client leaves, and count how that went.

        Raises:
            WorkerError: whatever `chunks` raises, and `DrainDeadlineError`.
        """
        metrics = self.metrics
        with metrics.canary() if is_canary(request) else metrics.request() as observed:
            async for chunk in self.inflight.until_stopped(chunks, context):
                observed.chunk(last="finish_reason" in chunk)
                yield chunk

    async def _answer(
        self, request: dict[str, Any], context: CallContext, answer: Answer
    ) -> AsyncGenerator[dict[str, Any], None]:
        wire = parse_request(request)
        urls = image_urls(wire.multi_modal_data)
        with self.places.taken(by_images=bool(urls)):
            admitted = await self._admit(wire, urls, request, context)
            async with aclosing(answer(admitted)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def _admit(
        self, wire: WireRequest, urls: list[str], request: dict[str, Any], context: CallContext
    ) -> Admitted:
        """Make a call of a request, and find out whose it is and what it is worth."""
        choices = to_choices(wire)
        call = to_generate_request(wire, context.id())
        call = await with_images(call, urls, self.images)
        canary = is_canary(request)
        if not canary:
            found = await self.attributor.attribute(wire, call.token_ids, context.id())
            call = dataclasses.replace(call, origin=found.origin, retention=found.retention)
        return Admitted(wire, call, choices, canary)
