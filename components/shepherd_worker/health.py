"""What a worker says of itself: one document with stable fields.

The same document answers the engine route `shepherd/health` and, through
`set_health_status`, decides what `/health` and `/live` say.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from shepherd_worker.engine.protocol import EngineInfo, EngineStats


class Phase(StrEnum):
    """Where a worker is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """Requests by where they are."""

    in_progress: int
    running: int
    waiting: int


@dataclass(frozen=True, slots=True)
class BlockCounts:
    """Device blocks by what they are used for; they add up to the capacity."""

    referenced: int
    cached: int
    empty: int


@dataclass(frozen=True, slots=True)
class StreamPosition:
    """The KV event stream's head."""

    worker_id: str
    epoch: int
    head_seq: int
    dropped_total: int
    dp_rank: int = 0


@dataclass(frozen=True, slots=True)
class HealthReport:
    """The document; a field is added, never removed or renamed."""

    phase: Phase
    healthy: bool
    """Whether the engine still makes progress."""
    role: str
    model: str
    engine: str
    instance_id: str
    """Dynamo's instance id, in hex."""
    uptime_seconds: float
    requests: RequestCounts
    blocks: BlockCounts
    stream: StreamPosition | None = None
    """Of the first rank."""
    other_streams: tuple[StreamPosition, ...] = ()
    """Of the other attention-parallel ranks, in their order."""


class Health:
    """The worker's phase and clock."""

    def __init__(self, role: str, model: str, info: EngineInfo, instance_id: int) -> None:
        self.phase = Phase.STARTING
        self._role = role
        self._model = model
        self._engine = f"{info.engine} {info.version}".strip()
        self._instance_id = f"{instance_id:x}"
        self._started = time.monotonic()

    def report(
        self,
        stats: EngineStats,
        *,
        healthy: bool,
        in_progress: int,
        streams: Sequence[StreamPosition],
    ) -> HealthReport:
        """The document as of now."""
        return HealthReport(
            phase=self.phase,
            healthy=healthy,
            role=self._role,
            model=self._model,
            engine=self._engine,
            instance_id=self._instance_id,
            uptime_seconds=round(time.monotonic() - self._started, 3),
            requests=RequestCounts(in_progress, stats.num_running, stats.num_waiting),
            blocks=BlockCounts(stats.blocks_referenced, stats.blocks_cached, stats.blocks_empty),
            stream=streams[0] if streams else None,
            other_streams=tuple(streams[1:]),
        )


def as_json(report: HealthReport) -> dict[str, Any]:
    """The document as plain JSON values."""
    return asdict(report)
