"""What a component says of its work to whoever follows a request through all of them.

    Spans.span(...)   measure a block
    Spans.start(...)  measure what ends elsewhere; call `Span.end`

A component is given `Spans` and never asks whether they go anywhere: `NoSpans`
passes the trace that arrived on.  Attributes are numbers, names and ids, never
text that somebody said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Protocol

from shepherd_telemetry.trace_context import TraceContext, current, working_for

Attributes = Mapping[str, str | int | float | bool]
NOTHING: Final[Attributes] = MappingProxyType({})


class Kind(StrEnum):
    """On which side of a call a span lies."""

    SERVER = "server"
    CLIENT = "client"
    CONSUMER = "consumer"
    INTERNAL = "internal"


class Span(Protocol):
    """Something that takes time; from any thread."""

    @property
    def context(self) -> TraceContext | None:
        """What to pass on; None where there is no trace."""
        ...

    def set(self, attributes: Attributes) -> None:
        """Add what is known only now."""
        ...

    def end(self, failure: str = "") -> None:
        """The end; `failure` is the kind of what went wrong, never its message."""
        ...


class Spans(Protocol):
    """Where spans go."""

    def start(
        self,
        name: str,
        kind: Kind = Kind.INTERNAL,
        *,
        parent: TraceContext | None = None,
        links: Sequence[TraceContext] = (),
        attributes: Attributes = NOTHING,
    ) -> Span:
        """Begin a span; without a parent a trace of its own."""
        ...

    def close(self) -> None:
        """Send what has not been sent; blocks, a few seconds at most."""
        ...


@contextmanager
def measured(
    spans: Spans,
    name: str,
    kind: Kind = Kind.INTERNAL,
    *,
    parent: TraceContext | None = None,
    links: Sequence[TraceContext] = (),
    attributes: Attributes = NOTHING,
) -> Iterator[Span]:
    """A span around a block of one task or thread; its parent is the current one by default."""
    span = spans.start(name, kind, parent=parent or current(), links=links, attributes=attributes)
    failure = ""
    try:
        with working_for(span.context):
            yield span
    except BaseException as error:
        failure = type(error).__name__
        raise
    finally:
        span.end(failure)


@dataclass(frozen=True, slots=True)
class PassedOn:
    """A span that nobody records."""

    context: TraceContext | None

    def set(self, attributes: Attributes) -> None:
        """See `Span`."""

    def end(self, failure: str = "") -> None:
        """See `Span`."""


class NoSpans:
    """Where no collector is named."""

    def start(
        self,
        name: str,
        kind: Kind = Kind.INTERNAL,
        *,
        parent: TraceContext | None = None,
        links: Sequence[TraceContext] = (),
        attributes: Attributes = NOTHING,
    ) -> Span:
        """See `Spans`."""
        del name, kind, links, attributes
        return PassedOn(parent)

    def close(self) -> None:
        """See `Spans`."""


NO_SPANS: Final = NoSpans()
