"""A store of KV blocks at the service of one engine.

    event loop      load, release, flush, close     sequences wait here, nobody else does
    engine thread   open, save                      never waits for the store
    its own threads store.find, store.load, store.save

What goes wrong costs a computation and a counter, never a request: a store that
fails, that is late, that has lost a block between `find` and `load`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from shepherd_events.events import BlockHash
from shepherd_worker.engine.connector.budget import Budget
from shepherd_worker.engine.connector.failures import Failures
from shepherd_worker.engine.connector.io_threads import IoThreads
from shepherd_worker.engine.connector.planning import plan_load, plan_save
from shepherd_worker.engine.connector.protocol import KvStore, Record
from shepherd_worker.engine.connector.save_queue import SaveQueue
from shepherd_worker.engine.protocol import CacheEvent, KvStoreStats
from shepherd_worker.errors import UnusableInputError

log = logging.getLogger(__name__)

NUM_READERS = 4
"""Calls of the store that may be under way at once, saves aside."""
FLUSH_TIMEOUT_S = 10.0
"""How long a drain waits for pending saves."""
STOP_TIMEOUT_S = 1.0
"""How long a close waits for calls that are under way."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LoadedRun:
    """Consecutive blocks of a prompt that the store gave."""

    first_block: int
    records: list[Record]


class KvConnector:
    """See the module's docstring."""

    def __init__(
        self, store: KvStore, *, buffer_bytes: int, load_timeout_s: float, max_waiting: int
    ) -> None:
        """Loads hold up to `buffer_bytes` of memory until they are released, and so do saves.

        A sequence waits `load_timeout_s` at most for each answer of the store.  No more
        than `max_waiting` sequences wait for memory; the others do without.
        """
        self._store = store
        self._buffer_bytes = buffer_bytes
        self._timeout_s = load_timeout_s
        self._max_waiting = max_waiting
        self._readers = IoThreads("shepherd-kv-load", NUM_READERS)
        self._failures = Failures("prompts are computed")
        self._block_bytes = 0
        self._saves: SaveQueue | None = None
        self._budget = Budget(0)
        self._held: dict[Hashable, int] = {}
        self._closing: asyncio.Future[None] | None = None
        self._num_stuck = 0
        """Calls that nobody waits for any more and that still occupy a thread."""
        self._num_late_total = 0
        self._num_hit = 0
        self._num_missed = 0

    def open(self, fingerprint: bytes, block_bytes: int) -> None:
        """Open the store for a model and start the threads; may wait for the store.

        Raises:
            StartError: the store cannot be used, or the buffer has no room for a block.
        """
        if self._buffer_bytes < block_bytes:
            raise UnusableInputError(
                f"--kv-connector-buffer: {self._buffer_bytes} bytes have no room for one block of "
                f"{block_bytes} bytes"
            )
        self._store.open(fingerprint, block_bytes)
        self._block_bytes = block_bytes
        self._budget = Budget(self._buffer_bytes // block_bytes)
        self._saves = SaveQueue(
            self._store, block_bytes=block_bytes, limit_bytes=self._buffer_bytes
        )
        self._saves.start()
        self._readers.start()

    async def load(
        self, owner: Hashable, hashes: Sequence[BlockHash], num_cached: Callable[[], int]
    ) -> LoadedRun | None:
        """The blocks of a chain that follow the cached ones, as far as the store has them.

        What is returned is `owner`'s until `release`.
        """
        found = await self._ask(partial(self._store.find, hashes)) if hashes else None
        plan = plan_load(found or (), num_cached=num_cached(), max_blocks=self._budget.limit)
        records = await self._load(owner, hashes[plan.start : plan.stop]) if plan else []
        self._num_hit += len(records)
        self._num_missed += max(0, len(hashes) - plan.start - len(records))
        return LoadedRun(plan.start, records) if records else None

    def release(self, owner: Hashable) -> None:
        """The records that `owner` got are not needed any more; without effect the second time."""
        self._budget.give(self._held.pop(owner, 0))

    def save(
        self,
        events: Iterable[CacheEvent],
        *,
        loaded: AbstractSet[BlockHash],
        read: Callable[[Sequence[BlockHash]], Sequence[Record]],
    ) -> None:
        """See `core.BlockSaver.save`."""
        assert self._saves is not None
        plan = plan_save(events, loaded=loaded, max_blocks=self._saves.room())
        records = read(plan.hashes) if plan.hashes else []
        if records:
            self._saves.put(plan.hashes[: len(records)], records)
        unread = len(plan.hashes) - len(records)
        if plan.num_dropped or unread:
            self._saves.drop(plan.num_dropped + unread)

    def stats(self) -> KvStoreStats:
        """Cheap; from any thread."""
        store, saves = self._store.counters(), self._saves
        assert saves is not None
        return KvStoreStats(
            blocks_hit_total=self._num_hit,
            blocks_missed_total=self._num_missed,
            loaded_bytes_total=self._num_hit * self._block_bytes,
            saved_bytes_total=saves.num_saved_total * self._block_bytes,
            saves_dropped_total=saves.num_dropped_total,
            blocks_corrupt_total=store.blocks_corrupt,
            blocks_evicted_total=store.blocks_evicted,
            loads_late_total=self._num_late_total,
            failures_total=self._failures.total + saves.failures.total,
        )

    async def flush(self) -> None:
        """Wait until everything is saved, or for as long as a drain may."""
        if self._saves and not await asyncio.to_thread(self._saves.flush, FLUSH_TIMEOUT_S):
            log.warning("the KV store has not taken every block in %.0f s", FLUSH_TIMEOUT_S)

    async def close(self) -> None:
        """End loads without a result, drop pending saves, and stop; never hangs."""
        self._budget.close()
        if not self._closed().done():
            self._closed().set_result(None)
        if self._saves is None:
            return
        ended = await asyncio.gather(
            asyncio.to_thread(self._saves.stop, STOP_TIMEOUT_S),
            asyncio.to_thread(self._readers.stop, STOP_TIMEOUT_S),
        )
        if all(ended):
            self._store.close()
        else:
            log.warning("the KV store is left at a call that did not end in %.0f s", STOP_TIMEOUT_S)

    async def _load(self, owner: Hashable, hashes: Sequence[BlockHash]) -> list[Record]:
        """Records that count against the budget until `release`."""
        if self._budget.num_waiting >= self._max_waiting:
            return []
        if not await self._budget.take(len(hashes)):
            return []
        give_back = partial(self._budget.give, len(hashes))
        records = await self._ask(partial(self._store.load, hashes), given_up=give_back)
        if records is None:
            return []
        self._held[owner] = len(records)
        self._budget.give(len(hashes) - len(records))
        return records

    async def _ask(
        self, call: Callable[[], T], *, given_up: Callable[[], None] = lambda: None
    ) -> T | None:
        """What the store answers, in time; else `given_up` is called once the call is over."""
        if self._num_stuck >= NUM_READERS:
            self._num_late_total += 1
            given_up()
            return None
        future = self._readers.submit(call)
        answer = asyncio.wrap_future(future)
        used = late = False
        try:
            ends: set[asyncio.Future[Any]] = {answer, self._closed()}
            await asyncio.wait(
                ends,
                timeout=self._timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if answer.done() and answer.exception() is None:
                used = True
                return answer.result()
            late = not answer.done() and not self._closed().done()
            return None
        finally:
            if not used:
                self._give_up(future, answer, given_up, late=late)

    def _give_up(
        self,
        future: Future[T],
        answer: asyncio.Future[T],
        given_up: Callable[[], None],
        *,
        late: bool,
    ) -> None:
        """Leave a call alone; one that is late occupies its thread until it is over."""
        self._num_late_total += late
        self._num_stuck += late
        loop = asyncio.get_running_loop()

        def over() -> None:
            self._num_stuck -= late
            given_up()

        if answer.done() and not answer.cancelled() and (error := answer.exception()):
            self._failures.add(error)
        answer.cancel()
        future.cancel()
        future.add_done_callback(partial(_call_in, loop, over))

    def _closed(self) -> asyncio.Future[None]:
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_future()
        return self._closing


def _call_in(loop: asyncio.AbstractEventLoop, callback: Callable[[], None], _: Future[T]) -> None:
    with suppress(RuntimeError):  # the loop is closed, and with it all that the callback is for
        loop.call_soon_threadsafe(callback)
