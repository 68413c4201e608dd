"""KV blocks in this process's memory: the simplest store, executable specification, fixture."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

from shepherd_events.events import BlockHash
from shepherd_worker.engine.connector.protocol import Record, StoreCounters
from shepherd_worker.errors import UnusableInputError


class Shelf:
    """Where records lie; stores that share one find each other's blocks."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.records: OrderedDict[tuple[bytes, BlockHash], bytes] = OrderedDict()
        """By fingerprint and hash, least recently used first."""
        self.num_bytes = 0


class MemoryStore:
    """A `KvStore` that ends with its process, or with the last one that shares its shelf."""

    def __init__(
        self,
        location: str = "",
        size_bytes: int = 1 << 30,
        *,
        shelf: Shelf | None = None,
        before: Callable[[str], None] = lambda _operation: None,
    ) -> None:
        """`before` hears "find", "load" or "save" in the caller's thread; it may wait or raise.

        Raises:
            UnusableInputError: there are no places in memory to choose from.
        """
        if location:
            raise UnusableInputError(
                f"--kv-connector: 'memory:' takes no location, got {location!r}"
            )
        self._shelf = shelf or Shelf()
        self._size_bytes = size_bytes
        self._before = before
        self._fingerprint = b""
        self._num_evicted = 0

    def open(self, fingerprint: bytes, block_bytes: int) -> None:
        """See `KvStore.open`."""
        if block_bytes > self._size_bytes:
            raise UnusableInputError(
                f"--kv-connector-size: {self._size_bytes} bytes have no room for one block of "
                f"{block_bytes} bytes"
            )
        self._fingerprint = fingerprint

    def find(self, hashes: Sequence[BlockHash]) -> list[bool]:
        """See `KvStore.find`."""
        self._before("find")
        keys = [(self._fingerprint, block_hash) for block_hash in hashes]
        with self._shelf.lock:
            records = self._shelf.records
            for key in reversed(keys):
                if key in records:
                    records.move_to_end(key)
            return [key in records for key in keys]

    def load(self, hashes: Sequence[BlockHash]) -> list[Record]:
        """See `KvStore.load`."""
        self._before("load")
        found: list[Record] = []
        with self._shelf.lock:
            for block_hash in hashes:
                record = self._shelf.records.get((self._fingerprint, block_hash))
                if record is None:
                    break
                found.append(record)
        return found

    def save(self, block_hash: BlockHash, record: Record) -> bool:
        """See `KvStore.save`."""
        self._before("save")
        key = (self._fingerprint, block_hash)
        shelf = self._shelf
        with shelf.lock:
            if key in shelf.records:
                shelf.records.move_to_end(key)
                return False
            shelf.num_bytes += len(record)
            while shelf.num_bytes > self._size_bytes:
                _, removed = shelf.records.popitem(last=False)
                shelf.num_bytes -= len(removed)
                self._num_evicted += 1
            shelf.records[key] = bytes(record)
        return True

    def counters(self) -> StoreCounters:
        """See `KvStore.counters`."""
        return StoreCounters(blocks_evicted=self._num_evicted)

    def close(self) -> None:
        """See `KvStore.close`."""
