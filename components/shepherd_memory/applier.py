"""Groups what arrives into batches and has them applied.

Whatever queued while the last batch was committed becomes the next one, so
that one durable commit carries many frames under load.  A short window lets a
burst of evictions end up in one batch, and thereby in one notice a session.
The queue is bounded: readers of streams wait when the disk is slower.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from shepherd_events.events import Frame, Notice, StreamId
from shepherd_memory.arrivals import Arrival, StreamEnded
from shepherd_memory.consumer import Consumer
from shepherd_memory.metrics import Metrics
from shepherd_memory.notifier import Bell
from shepherd_memory.writer import WriterThread

BATCH_WINDOW_S = 0.02
MAX_BATCH = 1024
"""Arrivals of one transaction at most."""


class Applier:
    """From the queue to the consumer; event loop only."""

    def __init__(
        self,
        *,
        consumer: Consumer,
        writer: WriterThread,
        bell: Bell,
        metrics: Metrics,
        now_unix_ns: Callable[[], int],
        window_s: float = BATCH_WINDOW_S,
    ) -> None:
        self._consumer = consumer
        self._writer = writer
        self._bell = bell
        self._metrics = metrics
        self._now_unix_ns = now_unix_ns
        self._window_s = window_s
        self._queue: asyncio.Queue[Arrival] = asyncio.Queue(maxsize=2 * MAX_BATCH)
        self.lag_s: dict[StreamId, float] = {}
        """Per stream, from the publication of its last frame until that was committed."""

    @property
    def backlog(self) -> int:
        """Arrivals that wait."""
        return self._queue.qsize()

    async def put(self, arrival: Arrival) -> None:
        """Queue an arrival behind those that came before; waits while the queue is full."""
        await self._queue.put(arrival)
        self._metrics.backlog.set(self.backlog)

    async def run(self) -> None:
        """Apply batches until cancelled; what has not been committed then is replayed later."""
        while True:
            batch = [await self._queue.get()]
            await asyncio.sleep(self._window_s)
            while len(batch) < MAX_BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            await self._apply(batch)

    async def _apply(self, batch: list[Arrival]) -> None:
        began = time.perf_counter()
        notices: tuple[Notice, ...] = await self._writer.run(lambda: self._consumer.apply(batch))
        self._metrics.commit_seconds.observe(time.perf_counter() - began)
        self._metrics.backlog.set(self.backlog)
        now = self._now_unix_ns()
        for arrival in batch:
            if isinstance(arrival, Frame):
                lag_s = max(0, now - arrival.ts_unix_ns) / 1e9
                self._metrics.lag.observe(lag_s)
                self.lag_s[arrival.stream] = lag_s
            elif isinstance(arrival, StreamEnded):
                self.lag_s.pop(arrival.stream, None)
        if notices:
            self._bell.ring()
