"""Prompt and answer in one place."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from shepherd_worker.handlers.choices import answer_choices
from shepherd_worker.handlers.intake import Admitted, Intake
from shepherd_worker.inflight import CallContext
from shepherd_worker.wire import render_chunk


class AggregatedHandler:
    """Computes the prompt and generates the answer."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def generate(
        self, request: dict[str, Any], context: CallContext
    ) -> AsyncIterator[dict[str, Any]]:
        """See `Handler.generate`."""
        return self._intake.serve(request, context, self._answer)

    async def _answer(self, admitted: Admitted) -> AsyncGenerator[dict[str, Any], None]:
        call, generate = admitted.call, self._intake.engine.generate
        answers = answer_choices(generate, generate, call, admitted.choices)
        async with aclosing(answers) as chunks:
            async for index, chunk in chunks:
                yield render_chunk(chunk, index)
