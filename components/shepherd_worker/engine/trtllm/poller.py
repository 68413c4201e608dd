"""The thread that takes TensorRT-LLM's cache events and statistics, which it only gives when asked.

    event loop                             poller
    ----------                             ------
                                           takes events from the engine
    note(a request, its end) - deque --->  1. notes go into the ledgers
                                           2. the events
    found(a prompt's hit) --- deque ---->  3. hits, on what is there by now
    deliver(a rank's events) <- call_soon  in order

A request is noted before it is submitted, and notes are read after the events
were taken: whatever an event speaks of is known when it is applied.  Only the
end of a request may come after the removal of its blocks, when another request
was quick to take them: such a removal, and what follows it, waits a little.
The engine's iterators want an event loop of their own, which lives in this
thread.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from shepherd_events.events import Tier
from shepherd_worker.engine.protocol import CacheEvent
from shepherd_worker.engine.trtllm.kv_events import EventReader, KvEvent, Removed
from shepherd_worker.engine.trtllm.ledger_block import TIERS
from shepherd_worker.engine.trtllm.ranks import Ledgers
from shepherd_worker.engine.trtllm.stats import IterationStats, NativeMetrics
from shepherd_worker.engine.trtllm.tracks import Track

log = logging.getLogger(__name__)

BUSY_INTERVAL_S = 0.005
IDLE_INTERVAL_S = 0.05
HEALTH_INTERVAL_S = 1.0
SETTLE_S = 1.0
"""How long the end of a sequence waits for the events of its last blocks."""
PATIENCE_S = 0.05
"""How long a removal waits for the end of the request whose blocks it takes."""
MAX_EVENTS_AT_ONCE = 4096

Note = Callable[[Ledgers], None]


class Poller:
    """See the module's docstring; its methods belong to the event loop."""

    def __init__(
        self,
        llm: Any,
        ledgers: Ledgers,
        *,
        num_ranks: int,
        vocab_size: int,
        deliver: Callable[[int, tuple[CacheEvent, ...]], None],
        died: Callable[[BaseException], None],
        measured: Callable[[int], None],
        metrics: NativeMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Called on the event loop: `deliver` with a rank's events, `measured` with blocks in use."""
        self.stats = IterationStats()
        self.reader = EventReader(num_ranks, vocab_size)
        self._llm = llm
        self._ledgers = ledgers
        self._deliver = deliver
        self._died = died
        self._measured = measured
        self._metrics = metrics
        self._clock = clock
        self._notes: deque[Note] = deque()
        self._hits: deque[tuple[Track, int]] = deque()
        self._backlog: deque[tuple[int, KvEvent]] = deque()
        self._patience: float | None = None
        """Until when the first event of the backlog waits."""
        self._stopping = False
        self._next_health = 0.0
        self._began = False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="trtllm-poller", daemon=True)

    def start(self) -> None:
        """Begin; the engine is asked for nothing before `begin`."""
        self._thread.start()

    def begin(self) -> None:
        """A request was submitted: older versions have no iterators before the first."""
        self._began = True

    async def num_blocks(self, timeout_s: float) -> dict[Tier, int]:
        """Blocks of each tier, once the engine has told; empty where it does not in time."""
        deadline = self._clock() + timeout_s
        while not self.reader.num_blocks and self._clock() < deadline:  # noqa: ASYNC110 - a thread's
            await asyncio.sleep(BUSY_INTERVAL_S)
        told = {
            tier: sum(levels[level] for levels in self.reader.num_blocks.values() if levels[level:])
            for level, tier in TIERS.items()
        }
        return {tier: blocks for tier, blocks in told.items() if blocks}

    def note(self, note: Note) -> None:
        """Let the ledgers know of a request."""
        self._notes.append(note)

    def found(self, track: Track, num_cached: int) -> None:
        """So many tokens of a prompt were in the cache."""
        self._hits.append((track, num_cached))

    def deadline(self) -> float:
        """Until when an end that is noted now may wait."""
        return self._clock() + SETTLE_S

    async def stop(self, timeout_s: float) -> None:
        """Take what is there and end; gives up on a thread that hangs in the engine."""
        self._stopping = True
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, timeout_s)

    def _run(self) -> None:
        try:
            asyncio.run(self._poll())
        except BaseException as error:  # noqa: BLE001 - the thread's edge; the owner tells everybody
            self._call(self._died, error)

    async def _poll(self) -> None:
        while not self._stopping:
            busy = await self._round()
            self._check_health()
            await asyncio.sleep(BUSY_INTERVAL_S if busy else IDLE_INTERVAL_S)
        await self._round()
        self._ledgers.settle(math.inf)
        self._give()

    async def _round(self) -> bool:
        """Take, apply, tell; whether there may be more soon."""
        events = await _take(self._llm.get_kv_cache_events_async) if self._began else []
        rows = await _take(self._llm.get_stats_async) if self._began else []
        for _ in range(len(self._notes)):
            self._notes.popleft()(self._ledgers)
        self._backlog.extend(self.reader.read(events))
        self._apply_backlog()
        for _ in range(len(self._hits)):
            self._ledgers.hit(*self._hits.popleft())
        for row in rows:
            self.stats.add(row)
            self._metrics.row(row)
            self._call(self._measured, self.stats.load().num_used)
        self._ledgers.settle(self._clock())
        self._give()
        return bool(events or rows or len(self._ledgers.tracks))

    def _apply_backlog(self) -> None:
        while self._backlog:
            rank, event = self._backlog[0]
            if isinstance(event, Removed) and self._wait_for_ends(rank, event):
                return
            self._patience = None
            self._ledgers.apply(rank, event)
            self._backlog.popleft()

    def _wait_for_ends(self, rank: int, event: Removed) -> bool:
        """Whether a removal waits for the end of a request that had the blocks."""
        owners = self._ledgers.unfinished_owners(rank, event.names)
        if not owners or self._stopping:
            return False
        if self._patience is None:
            self._patience = self._clock() + PATIENCE_S
        if self._clock() < self._patience:
            return True
        for track in owners:
            track.shares_only = True
        return False

    def _give(self) -> None:
        for rank, told in self._ledgers.drain():
            self._call(self._deliver, rank, told)

    def _check_health(self) -> None:
        if self._clock() < self._next_health:
            return
        self._next_health = self._clock() + HEALTH_INTERVAL_S
        check = getattr(self._llm, "_check_health", None)
        if check is not None and not check():
            executor = getattr(self._llm, "_executor", None)
            reason = getattr(executor, "_fatal_error", None)
            raise RuntimeError(f"TensorRT-LLM says that it is not healthy: {reason!r}")

    def _call(self, callback: Callable[..., None], *arguments: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *arguments)


async def _take(ask: Callable[..., AsyncIterator[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What is there now; an iterator of older versions stays ended until it is told otherwise."""
    results = ask(timeout=0)
    revive = getattr(results, "mark_undone", None)
    if revive is not None:
        revive()
    taken: list[dict[str, Any]] = []
    async for result in results:
        taken.append(result)
        if len(taken) >= MAX_EVENTS_AT_ONCE:
            break
    return taken
