"""Blocks that wait to be saved, and the thread that saves them.

    engine thread                    writer thread
    -------------                    -------------
    room()                           store.save(hash, record), the last of a run first
    put(hashes, records)  -------->  whatever it raises: dropped and counted

The engine never waits: what does not fit is not put.  The last block of a run is
saved first, so that a store that forgets what it was given first forgets
children before their parents.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from shepherd_events.events import BlockHash
from shepherd_worker.engine.connector.failures import Failures
from shepherd_worker.engine.connector.protocol import KvStore, Record


@dataclass(frozen=True, slots=True)
class _Run:
    """Blocks of one step, taken from the end one by one."""

    hashes: list[BlockHash]
    records: list[Record]


class SaveQueue:
    """See the module's docstring."""

    def __init__(self, store: KvStore, *, block_bytes: int, limit_bytes: int) -> None:
        self.num_saved_total = 0
        """Blocks that the store did not have before."""
        self.num_dropped_total = 0
        """Blocks that found no room, could not be written, or were left when it stopped."""
        self.failures = Failures("blocks are not saved")
        self._store = store
        self._limit = limit_bytes // block_bytes
        self._changed = threading.Condition()
        self._runs: deque[_Run] = deque()
        self._num_pending = 0
        """Blocks put and not settled, the one that is being saved included."""
        self._stopping = False
        self._thread = threading.Thread(target=self._write, name="shepherd-kv-save", daemon=True)

    def start(self) -> None:
        """Begin to save."""
        self._thread.start()

    def room(self) -> int:
        """How many blocks may be put now."""
        with self._changed:
            return 0 if self._stopping else self._limit - self._num_pending

    def put(self, hashes: Sequence[BlockHash], records: Sequence[Record]) -> None:
        """Save these soon; for one thread, which asks for `room` before."""
        with self._changed:
            if self._stopping:
                self.num_dropped_total += len(hashes)
                return
            self._num_pending += len(hashes)
            self._runs.append(_Run(list(hashes), list(records)))
            self._changed.notify_all()

    def drop(self, num_blocks: int) -> None:
        """Count blocks that are not put for want of room."""
        with self._changed:
            self.num_dropped_total += num_blocks

    def flush(self, timeout_s: float) -> bool:
        """Wait until nothing is pending; False when that takes longer than `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._num_pending == 0, timeout_s)

    def stop(self, timeout_s: float) -> bool:
        """Drop what is pending and end; False when the block being saved takes longer."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _write(self) -> None:
        while (run := self._next_run()) is not None:
            while run.hashes:
                self._save(run.hashes.pop(), run.records.pop())

    def _next_run(self) -> _Run | None:
        with self._changed:
            self._changed.wait_for(lambda: self._runs or self._stopping)
            return self._runs.popleft() if self._runs else None

    def _save(self, block_hash: BlockHash, record: Record) -> None:
        saved, dropped = False, self._stopping
        try:
            if not dropped:
                saved = self._store.save(block_hash, record)
        except Exception as error:  # noqa: BLE001 - the thread's edge: logged and counted
            self.failures.add(error)
            dropped = True
        with self._changed:
            self.num_saved_total += saved
            self.num_dropped_total += dropped
            self._num_pending -= 1
            self._changed.notify_all()
