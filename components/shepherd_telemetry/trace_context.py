"""Which trace the work at hand belongs to, in the W3C form that Dynamo's headers have.

Knows no tracing library: a context can be passed on and logged where nothing is
exported.

Source: https://www.w3.org/TR/trace-context/ version 00.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, TypeVar

T = TypeVar("T")

HEADER: Final = "traceparent"
_FORM = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})"
)


@dataclass(frozen=True, slots=True)
class TraceContext:
    """One span as others refer to it."""

    trace_id: str
    """32 hex digits."""
    span_id: str
    """16 hex digits."""
    sampled: bool = True

    @property
    def traceparent(self) -> str:
        """The header's value."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def parse(traceparent: str | None) -> TraceContext | None:
    """What a header says; None where there is none or it makes no sense."""
    found = _FORM.fullmatch((traceparent or "").strip())
    if found is None:
        return None
    trace_id, span_id, flags = found.groups()
    return TraceContext(trace_id, span_id, sampled=bool(int(flags, 16) & 1))


_CURRENT: ContextVar[TraceContext | None] = ContextVar("shepherd_trace", default=None)


def current() -> TraceContext | None:
    """The span that the running code works for."""
    return _CURRENT.get()


def current_traceparent() -> str:
    """The header's value for what the running code asks of others; empty without a trace."""
    context = _CURRENT.get()
    return context.traceparent if context else ""


@contextmanager
def working_for(context: TraceContext | None) -> Iterator[None]:
    """What runs in the block works for a span."""
    token = _CURRENT.set(context)
    try:
        yield
    finally:
        _CURRENT.reset(token)


async def each_for(context: TraceContext | None, items: AsyncIterator[T]) -> AsyncIterator[T]:
    """Pass `items` on; each is made for a span, whichever task asks for it."""
    while True:
        with working_for(context):
            item = await anext(items, _END)
        if item is _END:
            return
        yield item  # type: ignore[misc]  # _END is the only other value


_END = object()
