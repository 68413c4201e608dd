"""One span for each request that Dynamo hands over, with what it cost and never what it said.

Names of attributes are OpenTelemetry's conventions for generative models where
these have one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from shepherd_telemetry.spans import Kind, Span, Spans
from shepherd_telemetry.trace_context import HEADER, each_for, parse
from shepherd_worker.wire import is_canary


class RequestTracing:
    """Puts what a handler does with a request into the trace that came with it."""

    def __init__(self, spans: Spans, *, role: str, model: str) -> None:
        self._spans = spans
        self._attributes = {"gen_ai.request.model": model, "shepherd.worker.role": str(role)}

    async def traced(
        self,
        chunks: AsyncIterator[dict[str, Any]],
        request: dict[str, Any],
        headers: Mapping[str, str] | None,
    ) -> AsyncIterator[dict[str, Any]]:
        """Pass chunks on; the span ends with them.  Dynamo's own probes have none."""
        if is_canary(request):
            async for chunk in chunks:
                yield chunk
            return
        session = (request.get("agent_context") or {}).get("session_id") or ""
        own = {"gen_ai.conversation.id": session} if session else {}
        span = self._spans.start(
            "generate",
            Kind.SERVER,
            parent=parse((headers or {}).get(HEADER)),
            attributes=self._attributes | own,
        )
        failure = ""
        try:
            async for chunk in each_for(span.context, chunks):
                _note(span, chunk)
                yield chunk
        except BaseException as error:
            failure = type(error).__name__
            raise
        finally:
            span.end(failure)


def _note(span: Span, chunk: dict[str, Any]) -> None:
    """What only the last chunk says."""
    if reason := chunk.get("finish_reason"):
        span.set({"gen_ai.response.finish_reason": reason})
    if usage := chunk.get("completion_usage"):
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        span.set(
            {
                "gen_ai.usage.input_tokens": usage["prompt_tokens"],
                "gen_ai.usage.output_tokens": usage["completion_tokens"],
                "gen_ai.usage.cache_read.input_tokens": cached,
            }
        )
