"""What the service says of itself: one document with stable fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shepherd_events.events import StreamId
from shepherd_events.subscriber import Position
from shepherd_memory.streams import StreamReport


def is_healthy(reports: Sequence[StreamReport]) -> bool:
    """Whether what workers do reaches us: from one of them at least, if there are any."""
    return not reports or any(report.is_followed for report in reports)


def health_document(
    reports: Sequence[StreamReport],
    applied: Mapping[StreamId, Position],
    lag_s: Mapping[StreamId, float],
    backlog: int,
) -> dict[str, Any]:
    """The document; a field is added, never removed or renamed."""
    return {
        "status": "ok" if is_healthy(reports) else "unavailable",
        "backlog": backlog,
        "streams": [
            _stream(report, applied.get(report.stream), lag_s.get(report.stream))
            for report in reports
        ],
    }


def _stream(report: StreamReport, applied: Position | None, lag_s: float | None) -> dict[str, Any]:
    return {
        "stream": str(report.stream),
        "epoch": report.epoch,
        "state": report.state,
        "received": _position(report.received),
        "applied": _position(applied),
        "lag_seconds": lag_s,
    }


def _position(position: Position | None) -> dict[str, int] | None:
    return None if position is None else {"epoch": position.epoch, "sequence": position.seq}
