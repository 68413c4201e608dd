"""Prompt and answer in one place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from shepherd_worker.handlers.intake import Intake
from shepherd_worker.inflight import CallContext
from shepherd_worker.wire import render_chunk


class AggregatedHandler:
    """Computes the prompt and generates the answer."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    async def generate(
        self, request: dict[str, Any], context: CallContext
    ) -> AsyncIterator[dict[str, Any]]:
        """See `Handler.generate`."""
        admitted = await self._intake.admit(request, context)
        chunks = self._intake.engine.generate(admitted.call)
        async for chunk in self._intake.see_through(chunks, context):
            yield render_chunk(chunk)
