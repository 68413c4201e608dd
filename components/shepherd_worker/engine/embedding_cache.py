"""Embeddings of images by their digest, least recently used first out, bounded in bytes.

Pure state for one thread.  Whatever the bound, the newest one stays: a prompt
that is computed in chunks asks for its image once per chunk.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

V = TypeVar("V")


class EmbeddingCache(Generic[V]):
    """See the module's docstring."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.num_bytes = 0
        self.hits_total = 0
        self.misses_total = 0
        self._entries: OrderedDict[bytes, tuple[V, int]] = OrderedDict()

    def get(self, digest: bytes) -> V | None:
        """What was put under a digest, if it is still there."""
        entry = self._entries.get(digest)
        if entry is None:
            self.misses_total += 1
            return None
        self.hits_total += 1
        self._entries.move_to_end(digest)
        return entry[0]

    def put(self, digest: bytes, value: V, num_bytes: int) -> None:
        """Keep a value, and forget the oldest ones that it leaves no room for."""
        _, replaced = self._entries.pop(digest, (None, 0))
        self._entries[digest] = (value, num_bytes)
        self.num_bytes += num_bytes - replaced
        while self.num_bytes > self.capacity_bytes and len(self._entries) > 1:
            _, (_, forgotten) = self._entries.popitem(last=False)
            self.num_bytes -= forgotten

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return (
            f"<EmbeddingCache {len(self)} images, {self.num_bytes} of {self.capacity_bytes} bytes>"
        )
