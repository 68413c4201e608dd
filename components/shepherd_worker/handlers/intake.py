"""What all roles share: reading a request at the door, and seeing it through."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any, TypeVar

from shepherd_worker.attribution import Attributor
from shepherd_worker.engine.protocol import Engine
from shepherd_worker.inflight import CallContext, InFlight
from shepherd_worker.request import GenerateRequest
from shepherd_worker.telemetry import RequestMetrics
from shepherd_worker.wire import (
    WireRequest,
    is_canary,
    parse_request,
    to_generate_request,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that passed the door."""

    wire: WireRequest
    call: GenerateRequest
    canary: bool
    """Dynamo's own health probe: must leave no trace behind."""


@dataclass(frozen=True, slots=True)
class Intake:
    """The engine, and everything that stands between it and Dynamo's dictionaries."""

    engine: Engine
    attributor: Attributor
    inflight: InFlight
    metrics: RequestMetrics

    async def admit(self, request: dict[str, Any], context: CallContext) -> Admitted:
        """Read a request dictionary and find out whose it is.

        Raises:
            InvalidRequestError: the dictionary is not a request.
        """
        wire = parse_request(request)
        call = to_generate_request(wire, context.id())
        canary = is_canary(request)
        if not canary:
            origin = await self.attributor.attribute(wire, call.token_ids, context.id())
            call = dataclasses.replace(call, origin=origin)
        return Admitted(wire, call, canary)

    async def see_through(
        self, results: AsyncGenerator[T], context: CallContext
    ) -> AsyncIterator[T]:
        """Pass results on until they end, counting how the request went."""
        with self.metrics.request() as observed:
            async for result in self.inflight.until_stopped(results, context):
                observed.result()
                yield result
            observed.ended()
