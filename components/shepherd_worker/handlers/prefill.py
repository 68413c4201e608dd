"""The prompt's KV, kept for a decode worker to fetch."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from shepherd_telemetry.trace_context import current_traceparent
from shepherd_worker.handlers.intake import Admitted, Intake
from shepherd_worker.inflight import CallContext
from shepherd_worker.request import FinishReason
from shepherd_worker.wire import render_chunk, render_handoff


class PrefillHandler:
    """Computes the prompt and answers with one token and the handoff of its KV."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def generate(
        self, request: dict[str, Any], context: CallContext
    ) -> AsyncIterator[dict[str, Any]]:
        """See `Handler.generate`; yields one chunk."""
        return self._intake.serve(request, context, self._answer)

    async def _answer(self, admitted: Admitted) -> AsyncGenerator[dict[str, Any], None]:
        if admitted.canary:  # a lease that nobody will ever fetch would outlive the probe
            async with aclosing(self._intake.engine.generate(admitted.call)) as chunks:
                async for chunk in chunks:
                    yield render_chunk(chunk)
            return
        result = await self._intake.engine.prefill(admitted.call)
        yield {
            "finish_reason": FinishReason.LENGTH.value,
            **render_chunk(result.chunk),
            "disaggregated_params": render_handoff(
                dataclasses.replace(result.handoff, traceparent=current_traceparent())
            ),
        }
