"""KV blocks as a source of records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shepherd_worker.engine.embedded.model.shared_memory import SharedMemory


@dataclass(frozen=True, slots=True)
class BlockSource:
    """A `Source` of held blocks, in the order of their sequence."""

    fingerprint: bytes
    record_bytes: int
    block_ids: Sequence[int]
    storage: SharedMemory | None
    """Where all blocks lie, if that is in host memory."""
    read_blocks: Callable[[Sequence[int]], Sequence[bytes | memoryview]]
    """Copies blocks that lie elsewhere."""

    @property
    def num_records(self) -> int:
        """See `Source.num_records`."""
        return len(self.block_ids)

    def read(self, first: int, count: int) -> Sequence[memoryview]:
        """See `Source.read`; without a copy where the blocks lie in host memory."""
        offsets = self.offsets(first, count)
        if self.storage is None or offsets is None:
            ids = self.block_ids[first : first + count]
            return [memoryview(record) for record in self.read_blocks(ids)]
        memory = memoryview(self.storage.memory)
        return [memory[at : at + self.record_bytes] for at in offsets]

    def offsets(self, first: int, count: int) -> Sequence[int] | None:
        """See `Source.offsets`."""
        if self.storage is None:
            return None
        return [i * self.record_bytes for i in self.block_ids[first : first + count]]
