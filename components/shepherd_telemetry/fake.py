"""Spans that are kept in memory, for tests and demonstrations; see `Spans`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from shepherd_telemetry.spans import NOTHING, Attributes, Kind
from shepherd_telemetry.trace_context import TraceContext


@dataclass
class KeptSpan:
    """One of them; the n-th has n as its id, and as its trace where it has no parent."""

    name: str
    kind: Kind
    parent: TraceContext | None
    links: list[TraceContext]
    attributes: dict[str, str | int | float | bool]
    context: TraceContext
    failure: str | None = None
    """Empty after an end without one; None before the end."""

    def set(self, attributes: Attributes) -> None:
        """See `Span`."""
        self.attributes |= attributes

    def end(self, failure: str = "") -> None:
        """See `Span`."""
        assert self.failure is None, "a span ends once"
        self.failure = failure


@dataclass
class KeptSpans:
    """See `Spans`."""

    kept: list[KeptSpan] = field(default_factory=list)
    """In the order of their beginnings."""

    def start(
        self,
        name: str,
        kind: Kind = Kind.INTERNAL,
        *,
        parent: TraceContext | None = None,
        links: Sequence[TraceContext] = (),
        attributes: Attributes = NOTHING,
    ) -> KeptSpan:
        """See `Spans`."""
        number = len(self.kept) + 1
        trace_id = parent.trace_id if parent else f"{number:032x}"
        context = TraceContext(trace_id, f"{number:016x}")
        span = KeptSpan(name, kind, parent, list(links), dict(attributes), context)
        self.kept.append(span)
        return span

    def close(self) -> None:
        """See `Spans`."""
