"""The prompt's KV, kept for a decode worker to fetch."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from shepherd_worker.handlers.intake import Intake
from shepherd_worker.inflight import CallContext
from shepherd_worker.request import GenerateRequest
from shepherd_worker.wire import render_chunk, render_handoff


class PrefillHandler:
    """Computes the prompt and answers with one token and the handoff of its KV."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    async def generate(
        self, request: dict[str, Any], context: CallContext
    ) -> AsyncIterator[dict[str, Any]]:
        """See `Handler.generate`; yields one chunk."""
        admitted = await self._intake.admit(request, context)
        answer = self._canary if admitted.canary else self._prefill
        async for chunk in self._intake.see_through(answer(admitted.call), context):
            yield chunk

    async def _prefill(self, call: GenerateRequest) -> AsyncGenerator[dict[str, Any]]:
        result = await self._intake.engine.prefill(call)
        yield {
            **render_chunk(result.chunk),
            "disaggregated_params": render_handoff(result.handoff),
        }

    async def _canary(self, call: GenerateRequest) -> AsyncGenerator[dict[str, Any]]:
        async for chunk in self._intake.engine.generate(call):
            yield render_chunk(chunk)
