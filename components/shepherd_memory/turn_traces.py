"""Spans of what becomes of a turn, linked to the request that it was said in.

Not children of it: the request has long ended when its turn is evicted.  Knows
turns by their archive id, and forgets the oldest beyond a bound; after a restart
an archived turn's span has no link.  Writer thread only.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Final

from shepherd_events.events import Attribution
from shepherd_telemetry.spans import Kind, Span, Spans, measured
from shepherd_telemetry.trace_context import TraceContext, parse

MAX_REMEMBERED: Final = 10_000
"""Turns between their recording and their eviction."""


class TurnTraces:
    """See the module's docstring."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self._traces: dict[str, TraceContext] = {}

    def recording(self, origin: Attribution, traceparent: str) -> AbstractContextManager[Span]:
        """A request that has ended is read and its turns are kept."""
        found = parse(traceparent)
        return measured(
            self._spans,
            "record turns",
            Kind.CONSUMER,
            links=[found] if found else [],
            attributes={"gen_ai.conversation.id": origin.session_id},
        )

    def remember(self, archive_id: str, traceparent: str) -> None:
        """A turn was kept; nothing to remember without a trace."""
        found = parse(traceparent)
        if found is None:
            return
        self._traces[archive_id] = found
        if len(self._traces) > MAX_REMEMBERED:
            del self._traces[next(iter(self._traces))]

    def archiving(self, archive_id: str, session: str) -> AbstractContextManager[Span]:
        """A turn has left the cache and becomes searchable."""
        found = self._traces.pop(archive_id, None)
        return measured(
            self._spans,
            "archive turn",
            links=[found] if found else [],
            attributes={"gen_ai.conversation.id": session},
        )
