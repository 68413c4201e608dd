"""What `shepherd top` shows, worked out from two readings of every process; pure.

None is what is not known: the process is away, was read once only, or has no such series.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from shepherd_cli.supervisor.status import ProcessStatus, StackStatus
from shepherd_cli.top.reading import Reading, Usage

AWAY: Final = "away"
FROZEN: Final = "frozen"
GONE: Final = "gone"
"""State of a process whose supervisor is no more, and of the process itself."""


@dataclass(frozen=True, slots=True)
class Sight:
    """Everything that was read at one time, by process."""

    readings: Mapping[str, Reading] = field(default_factory=dict)
    usages: Mapping[str, Usage] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """Any process."""

    name: str
    role: str
    state: str
    pid: int | None
    restarts: int
    cpu: float | None
    """Processors that it kept busy."""
    rss_bytes: int | None


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker's requests, its cache, and its stream."""

    name: str
    running: float | None
    waiting: float | None
    tokens_per_s: float | None
    """Generated."""
    blocks: Mapping[str, tuple[float, float]]
    """By tier: those that hold something, and all."""
    hit_rate: float | None
    """Share of prompt tokens whose KV was there, since its start."""
    events_per_s: float | None
    dropped: float | None
    """Events that its stream lost."""


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """The memory service."""

    lag_s: float | None
    """From a frame's publication to the commit of its effects, the mean since the last reading."""
    backlog: float | None
    """Frames that wait."""
    gaps: float | None
    mismatches: float | None
    """Heartbeats that told of other blocks than were held."""
    archived: float | None
    archived_per_s: float | None
    in_grace: float | None
    """Turns that are evicted and not archived yet."""
    notices: float | None
    unacknowledged: float | None
    """Notices that no session has taken, of those that were made since its start."""
    searches_per_s: float | None


@dataclass(frozen=True, slots=True)
class GatewayRow:
    """The gateway."""

    requests_per_s: float | None
    in_progress: float | None
    failed_per_s: float | None
    """Answers with a 5xx status."""
    added_s: float | None
    """What the gateway itself takes of a request's time, the mean since the last reading."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One update."""

    stack: str
    """`running`, why it is being stopped, or that nobody keeps it running any more."""
    processes: tuple[ProcessRow, ...]
    workers: tuple[WorkerRow, ...]
    memory: MemoryRow | None
    gateway: GatewayRow | None


def picture(status: StackStatus, before: Sight, now: Sight, *, is_kept: bool) -> Picture:
    """`is_kept` says whether the supervisor lives."""
    by_role: dict[str, list[ProcessStatus]] = {}
    for process in status.processes:
        by_role.setdefault(process.role, []).append(process)
    rows = [_process(each, before, now, is_kept=is_kept) for each in status.processes]
    memory = [_memory(*_two(each, before, now)) for each in by_role.get("memory", ())]
    gateway = [_gateway(*_two(each, before, now)) for each in by_role.get("gateway", ())]
    return Picture(
        stack=(f"stopping: {status.stopping}" if status.stopping else "running")
        if is_kept
        else GONE,
        processes=tuple(rows),
        workers=tuple(
            _worker(each.name, *_two(each, before, now)) for each in by_role.get("worker", ())
        ),
        memory=memory[0] if memory else None,
        gateway=gateway[0] if gateway else None,
    )


def _two(process: ProcessStatus, before: Sight, now: Sight) -> tuple[Reading | None, Reading]:
    return before.readings.get(process.name), now.readings.get(process.name, Reading(0.0, {}))


def _process(process: ProcessStatus, before: Sight, now: Sight, *, is_kept: bool) -> ProcessRow:
    usage = now.usages.get(process.name)
    return ProcessRow(
        name=process.name,
        role=process.role,
        state=_state(process, now, is_kept=is_kept),
        pid=process.pid if usage else None,
        restarts=process.restarts,
        cpu=usage.cpu_since(before.usages.get(process.name)) if usage else None,
        rss_bytes=usage.rss_bytes if usage else None,
    )


def _state(process: ProcessStatus, now: Sight, *, is_kept: bool) -> str:
    """What the supervisor says, unless what is seen says otherwise."""
    usage = now.usages.get(process.name)
    if not is_kept:
        return GONE
    if usage is not None and usage.is_frozen:
        return FROZEN
    is_silent = bool(process.metrics_url) and process.name not in now.readings
    return AWAY if process.state == "ready" and (usage is None or is_silent) else process.state


def _worker(name: str, before: Reading | None, now: Reading) -> WorkerRow:
    prompt = now.total("shepherd_worker_prompt_tokens_total")
    computed = now.total("shepherd_worker_prompt_tokens_total", source="computed")
    return WorkerRow(
        name=name,
        running=now.total("shepherd_worker_requests_running"),
        waiting=now.total("shepherd_worker_requests_waiting"),
        tokens_per_s=now.per_s(before, "shepherd_worker_generated_tokens_total"),
        blocks=_blocks(now),
        hit_rate=1 - computed / prompt if prompt and computed is not None else None,
        events_per_s=now.per_s(before, "shepherd_stream_events_published_total"),
        dropped=now.total("shepherd_stream_events_dropped_total"),
    )


def _blocks(now: Reading) -> dict[str, tuple[float, float]]:
    """Tiers that exist."""
    found = {}
    for tier, name in (("device", "kv_blocks"), ("host", "kv_host_blocks")):
        total = now.total(f"shepherd_worker_{name}")
        empty = now.total(f"shepherd_worker_{name}", state="empty")
        if total and empty is not None:
            found[tier] = (total - empty, total)
    return found


def _memory(before: Reading | None, now: Reading) -> MemoryRow:
    created = now.total("shepherd_memory_notifications_total", outcome="created")
    taken = now.total("shepherd_memory_notifications_total", outcome="acknowledged")
    return MemoryRow(
        lag_s=now.mean(before, "shepherd_stream_consumer_lag_seconds"),
        backlog=now.total("shepherd_memory_backlog"),
        gaps=now.total("shepherd_stream_reader_gaps_total"),
        mismatches=now.total("shepherd_stream_reader_digest_mismatches_total"),
        archived=now.total("shepherd_memory_turns_archived_total"),
        archived_per_s=now.per_s(before, "shepherd_memory_turns_archived_total"),
        in_grace=now.total("shepherd_memory_turns_in_grace"),
        notices=created,
        unacknowledged=max(0.0, created - taken)
        if created is not None and taken is not None
        else None,
        searches_per_s=now.per_s(before, "shepherd_memory_search_requests_total"),
    )


def _gateway(before: Reading | None, now: Reading) -> GatewayRow:
    requests = "shepherd_gateway_requests_total"
    codes = {labels.get("code", "") for labels, _ in now.series.get(requests, ())}
    failed = [now.per_s(before, requests, code=code) or 0.0 for code in codes if code[:1] == "5"]
    rate = now.per_s(before, requests)
    return GatewayRow(
        requests_per_s=rate if requests in now.series or not now.series else 0.0,
        in_progress=now.total("shepherd_gateway_requests_in_progress"),
        failed_per_s=sum(failed) if now.series else None,
        added_s=now.mean(before, "shepherd_gateway_added_latency_seconds"),
    )
