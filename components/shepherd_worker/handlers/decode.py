"""The answer, from a prompt whose KV a prefill worker computed."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any

from shepherd_worker.engine.protocol import Handoff
from shepherd_worker.errors import InvalidRequestError
from shepherd_worker.handlers.choices import answer_choices
from shepherd_worker.handlers.intake import Admitted, Intake
from shepherd_worker.inflight import CallContext
from shepherd_worker.request import TokenChunk
from shepherd_worker.wire import WirePrefillResult, WireRequest, parse_handoff, render_chunk

log = logging.getLogger(__name__)


class DecodeHandler:
    """Fetches the prompt's KV and generates; computes the prompt itself where that fails."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def generate(
        self, request: dict[str, Any], context: CallContext
    ) -> AsyncIterator[dict[str, Any]]:
        """See `Handler.generate`."""
        return self._intake.serve(request, context, self._answer)

    async def _answer(self, admitted: Admitted) -> AsyncGenerator[dict[str, Any], None]:
        call, generate = admitted.call, self._intake.engine.generate
        first = partial(generate, handoff=_handoff(admitted.wire))
        answers = answer_choices(first, generate, call, admitted.choices)
        async with aclosing(answers) as chunks:
            async for index, chunk in chunks:
                yield render_chunk(_with_prefill_cached(chunk, admitted.wire), index)


def _handoff(wire: WireRequest) -> Handoff | None:
    params = (wire.prefill_result or WirePrefillResult()).disaggregated_params
    if params is None:
        return None
    try:
        return parse_handoff(params)
    except InvalidRequestError as error:
        log.warning("computing a prompt here: its handoff is not ours: %s", error)
        return None


def _with_prefill_cached(chunk: TokenChunk, wire: WireRequest) -> TokenChunk:
    """Report the cached tokens that the prefill worker found, which the client did not pay for."""
    details = (wire.prefill_result or WirePrefillResult()).prompt_tokens_details or {}
    cached = details.get("cached_tokens")
    if chunk.usage is None or not isinstance(cached, int) or cached <= chunk.usage.cached_tokens:
        return chunk
    return dataclasses.replace(chunk, usage=dataclasses.replace(chunk.usage, cached_tokens=cached))
