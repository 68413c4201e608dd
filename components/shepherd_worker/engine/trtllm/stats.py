"""TensorRT-LLM's iteration statistics, in our words and in its own.

One row per iteration and attention rank; the newest of each rank counts.  Rows
stop when the engine is idle, so that the last one of a busy time is stale: when
no request is under way, nothing runs, waits or is referenced.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shepherd_events.events import Tier
from shepherd_worker.engine.protocol import EngineInfo, EngineStats
from shepherd_worker.engine.trtllm.leases import Leases
from shepherd_worker.engine.trtllm.ranks import Ledgers

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """Where the engine stands, over all ranks."""

    num_running: int = 0
    num_waiting: int = 0
    num_blocks: int = 0
    """Device blocks in total; 0 until the first row."""
    num_used: int = 0
    """Device blocks that running requests hold."""
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    drafts: int = 0
    num_paused: int = 0
    rank_used: Mapping[int, int] = field(default_factory=dict)
    """`num_used` of each rank that has a row."""


class IterationStats:
    """Reads rows; any thread may ask for the sum."""

    def __init__(self) -> None:
        self.num_unreadable = 0
        self._rows: dict[int, Mapping[str, Any]] = {}
        self._drafted = 0
        self._accepted = 0
        self._drafts = 0
        self._lock = threading.Lock()

    def add(self, row: Mapping[str, Any]) -> None:
        """Take one row."""
        spec = row.get("specDecodingStats") or {}
        with self._lock:
            self._rows[row.get("attentionDpRank") or 0] = row
            self._drafted += spec.get("numDraftTokens") or 0
            self._accepted += spec.get("numAcceptedTokens") or 0
            self._drafts += spec.get("numRequestsWithDraftTokens") or 0

    def load(self) -> EngineLoad:
        """The newest rows together."""
        with self._lock:
            by_rank = tuple(self._rows.items())
            drafted, accepted, drafts = self._drafted, self._accepted, self._drafts
        rows = tuple(row for _, row in by_rank)
        return EngineLoad(
            num_running=_sum(rows, None, "numActiveRequests"),
            num_waiting=_sum(rows, None, "numQueuedRequests"),
            num_blocks=_sum(rows, "kvCacheStats", "maxNumBlocks"),
            num_used=_sum(rows, "kvCacheStats", "usedNumBlocks"),
            rank_used={
                rank: _sum((row,), "kvCacheStats", "usedNumBlocks") for rank, row in by_rank
            },
            num_paused=_sum(rows, "inflightBatchingStats", "numPausedRequests"),
            drafted_tokens=drafted,
            accepted_tokens=accepted,
            drafts=drafts,
        )


@dataclass(slots=True)
class Totals:
    """What the adapter counts itself, since the start."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    transferred_tokens: int = 0
    generated_tokens: int = 0
    failed: int = 0
    refused: int = 0
    transfer_failures: int = 0


def engine_stats(
    totals: Totals,
    *,
    load: EngineLoad,
    ledgers: Ledgers,
    info: EngineInfo,
    num_calls: int,
    leases: Leases,
) -> EngineStats:
    """Our statistics, from the adapter's counts, TensorRT-LLM's rows and the ledgers."""
    num_waiting = min(load.num_waiting, num_calls)
    total = info.num_blocks.get(Tier.DEVICE, 0)
    busy = bool(num_calls or leases)
    used = min(load.num_used, total) if busy else 0
    resident = ledgers.num_resident
    cached = min(resident[Tier.DEVICE], total - used)
    on_host = resident[Tier.HOST]
    return EngineStats(
        num_running=num_calls - num_waiting,
        num_waiting=num_waiting,
        blocks_referenced=used,
        blocks_cached=cached,
        blocks_empty=total - used - cached,
        rank_blocks_referenced=_by_rank(load, info.num_ranks, busy=busy),
        host_blocks_cached=on_host,
        host_blocks_empty=max(0, info.num_blocks.get(Tier.HOST, 0) - on_host),
        prompt_tokens_total=totals.prompt_tokens,
        prompt_tokens_cached_total=totals.cached_tokens,
        prompt_tokens_transferred_total=totals.transferred_tokens,
        generated_tokens_total=totals.generated_tokens,
        blocks_stored_total=ledgers.counts.stored,
        blocks_evicted_total=ledgers.counts.evicted,
        blocks_offloaded_total=ledgers.counts.offloaded,
        blocks_onboarded_total=ledgers.counts.onboarded,
        drafts_total=load.drafts,
        drafted_tokens_total=load.drafted_tokens,
        accepted_tokens_total=load.accepted_tokens,
        requests_failed_total=totals.failed,
        requests_refused_total=totals.refused,
        transfer_failures_total=totals.transfer_failures,
        leases=len(leases),
        leases_expired_total=leases.expired_total,
    )


class NativeMetrics:
    """TensorRT-LLM's own Prometheus metrics, which it keeps in the default registry.

    One per process: a second collector of the same names is refused there, and
    then these are simply not fed.
    """

    def __init__(self, collector_class: Any, model: str) -> None:
        self._log_request: Callable[[dict[str, Any]], None] | None = None
        self._log_row: Callable[[Mapping[str, Any]], None] | None = None
        if collector_class is None:
            return
        try:
            made = collector_class({"model_name": model, "engine_type": "trtllm"})
        except ValueError as error:
            log.warning("TensorRT-LLM's own metrics are not shown: %s", error)
            return
        self._log_row = getattr(made, "log_iteration_stats", None)
        self._log_request = getattr(
            made, "log_request_metrics_dict", getattr(made, "log_metrics_dict", None)
        )

    def row(self, row: Mapping[str, Any]) -> None:
        """An iteration ended."""
        if self._log_row is not None and row.get("kvCacheStats"):
            self._log_row(row)

    def request(self, metrics: dict[str, Any]) -> None:
        """A request ended, with what TensorRT-LLM measured of it."""
        if self._log_request is not None and metrics:
            self._log_request(metrics)


def _by_rank(load: EngineLoad, num_ranks: int, *, busy: bool) -> tuple[int, ...]:
    """Nothing where there is one rank; rows of an idle engine are stale."""
    if num_ranks == 1:
        return ()
    return tuple(load.rank_used.get(rank, 0) if busy else 0 for rank in range(num_ranks))


def _sum(rows: tuple[Mapping[str, Any], ...], group: str | None, name: str) -> int:
    tables = rows if group is None else tuple(row.get(group) or {} for row in rows)
    return sum(int(table.get(name) or 0) for table in tables)
