"""Groups what arrives into batches and has them applied.

Whatever queued while the last batch was committed becomes the next one, so
that one durable commit carries many frames under load.  Nothing waits for
company: only batches that follow one another at once are kept a little apart.
While nothing arrives, what is due is archived all the same.

The queue is bounded: readers of streams wait when the disk is slower, or when a
store cannot be used.  In that case the batch is kept and tried again, later and
later, from what the stores hold (`Consumer.reload`); `store_failure` says why.
"""

from __future__ import annotations

import asyncio
import logging
import time

from shepherd_events.events import Frame, Notice, StreamId
from shepherd_memory.arrivals import Arrival, StreamEnded
from shepherd_memory.clocks import Clocks
from shepherd_memory.consumer import Consumer
from shepherd_memory.errors import LeaseLostError, StoreUnavailableError
from shepherd_memory.metrics import Metrics
from shepherd_memory.notifier import Bell
from shepherd_memory.writer import WriterThread

log = logging.getLogger(__name__)

MIN_INTERVAL_S = 0.005
"""Between the beginnings of two batches, so that a busy stream is not committed frame by frame."""
FIRST_RETRY_S = 0.1
LAST_RETRY_S = 5.0
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
        clocks: Clocks,
        min_interval_s: float = MIN_INTERVAL_S,
    ) -> None:
        self._consumer = consumer
        self._writer = writer
        self._bell = bell
        self._metrics = metrics
        self._clocks = clocks
        self._min_interval_s = min_interval_s
        self._next_batch_s = 0.0
        """When the next batch may begin, by the loop's clock."""
        self._queue: asyncio.Queue[Arrival] = asyncio.Queue(maxsize=2 * MAX_BATCH)
        self.lag_s: dict[StreamId, float] = {}
        """Per stream, from the publication of its last frame until that was committed."""
        self.store_failure = ""
        """Why nothing can be committed just now; empty while it can."""

    @property
    def backlog(self) -> int:
        """Arrivals that wait."""
        return self._queue.qsize()

    async def put(self, arrival: Arrival) -> None:
        """Queue an arrival behind those that came before; waits while the queue is full."""
        await self._queue.put(arrival)
        self._metrics.backlog.set(self.backlog)

    async def run(self) -> None:
        """Apply batches until cancelled; what has not been committed then is replayed later.

        Raises:
            LeaseLostError: nothing more can be committed from here.
        """
        while True:
            await self._apply(await self._next_batch())

    async def _next_batch(self) -> list[Arrival]:
        """What has arrived; nothing when something is due first."""
        try:
            async with asyncio.timeout(self._seconds_until_due()):
                batch = [await self._queue.get()]
        except TimeoutError:
            return []
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, self._next_batch_s - now))
        self._next_batch_s = max(now, self._next_batch_s) + self._min_interval_s
        while len(batch) < MAX_BATCH and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return batch

    def _seconds_until_due(self) -> float | None:
        due_ns = self._consumer.next_due_ns
        if due_ns is None:
            return None
        return max(0, due_ns - self._clocks.monotonic_ns()) / 1e9

    async def _apply(self, batch: list[Arrival]) -> None:
        began = time.perf_counter()
        has_news = await self._commit(batch)
        self._metrics.commit_seconds.observe(time.perf_counter() - began)
        self._metrics.backlog.set(self.backlog)
        now = self._clocks.unix_ns()
        for arrival in batch:
            if isinstance(arrival, Frame):
                lag_s = max(0, now - arrival.ts_unix_ns) / 1e9
                self._metrics.lag.observe(lag_s)
                self.lag_s[arrival.stream] = lag_s
            elif isinstance(arrival, StreamEnded):
                self.lag_s.pop(arrival.stream, None)
        if has_news:
            self._bell.ring()

    async def _commit(self, batch: list[Arrival]) -> bool:
        """Apply a batch, however long the stores cannot be used; says whether to look for notices.

        A try that failed may have committed some tenants, whose notices nobody was told of.
        """
        retry_s = FIRST_RETRY_S
        has_failed = False
        while True:
            try:
                if has_failed:
                    await self._writer.run(self._consumer.reload)
                notices = await self._writer.run(lambda: self._apply_now(batch))
            except LeaseLostError:
                raise
            except StoreUnavailableError as error:
                self._tell_of_failure(error)
                has_failed = True
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, LAST_RETRY_S)
            else:
                self._tell_of_success()
                return has_failed or bool(notices)

    def _apply_now(self, batch: list[Arrival]) -> tuple[Notice, ...]:
        """In the writer thread; one frame that cannot be applied does not hold up the others."""
        try:
            return self._consumer.apply(batch)
        except StoreUnavailableError:
            raise
        except Exception:
            log.exception("a batch could not be applied: its frames are tried one by one")
            return self._consumer.apply_separately(batch)

    def _tell_of_failure(self, error: StoreUnavailableError) -> None:
        if not self.store_failure:
            log.error("streams wait: %s", error)
        self.store_failure = error.reason
        self._metrics.store_failures.inc()
        self._metrics.store_up.set(0)

    def _tell_of_success(self) -> None:
        if self.store_failure:
            log.info("stores can be used again: streams go on")
        self.store_failure = ""
        self._metrics.store_up.set(1)
