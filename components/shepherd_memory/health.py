"""What the service says of itself: one document with stable fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shepherd_events.events import StreamId
from shepherd_events.subscriber import Position
from shepherd_memory.streams import StreamReport


@dataclass(frozen=True, slots=True)
class Applied:
    """How far what was received has come."""

    positions: Mapping[StreamId, Position]
    """Where each stream stands as of the last commit."""
    lag_s: Mapping[StreamId, float]
    backlog: int
    """Frames that wait."""
    store_failure: str
    """Why nothing can be committed just now; empty while it can."""


def is_healthy(reports: Sequence[StreamReport], applied: Applied) -> bool:
    """Whether what workers do reaches the stores: from one of them at least, if there are any."""
    followed = not reports or any(report.is_followed for report in reports)
    return followed and not applied.store_failure


def health_document(
    reports: Sequence[StreamReport], applied: Applied, *, follows: bool = True
) -> dict[str, Any]:
    """The document; a field is added, never removed or renamed.

    `follows` is false on a replica that answers while another follows the streams.
    """
    return {
        "status": "ok" if is_healthy(reports, applied) else "unavailable",
        "follows_streams": follows,
        "backlog": applied.backlog,
        "store": {
            "state": "unavailable" if applied.store_failure else "ok",
            "reason": applied.store_failure or None,
        },
        "streams": [
            _stream(report, applied.positions.get(report.stream), applied.lag_s.get(report.stream))
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
