"""Which KV block holds what, who uses it and which one is forgotten next.

A block is a number; the tensors behind it are the runner's business.

    state        reference count   findable by hash
    ----------   ---------------   ----------------
    empty        0                 no
    referenced   > 0               once it is full and stored
    free         0                 yes: a hit takes it back, need evicts it

    acquire:  empty | free -> referenced      (a free block is evicted first)
    store:    referenced   -> referenced, findable
    release:  referenced   -> empty, or free when it is findable

Free blocks are evicted least recently released first.  Whoever refers to a block
refers to its parent as well, and lets go of the child first: so a parent is
never evicted before a child of it that is still cached.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from shepherd_events.events import (
    Attribution,
    BlockHash,
    BlocksRemoved,
    BlocksStored,
    MediaKey,
)
from shepherd_worker.engine.protocol import CacheEvent


@dataclass(frozen=True, slots=True)
class PoolCounts:
    """How many blocks are in each state; their sum never changes."""

    empty: int
    free: int
    referenced: int


class BlockPool:
    """See the module's docstring; for one thread."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.num_stored_total = 0
        self.num_evicted_total = 0
        self._references = [0] * num_blocks
        self._hash_of: list[BlockHash | None] = [None] * num_blocks
        self._by_hash: dict[BlockHash, int] = {}
        self._empty = list(reversed(range(num_blocks)))
        self._free: OrderedDict[int, None] = OrderedDict()
        self._events: list[CacheEvent] = []

    def match(self, hashes: Iterable[BlockHash]) -> list[int]:
        """The blocks of the longest cached prefix; takes no reference."""
        found: list[int] = []
        for block_hash in hashes:
            block_id = self._by_hash.get(block_hash)
            if block_id is None:
                break
            found.append(block_id)
        return found

    def acquire(
        self,
        matched: Sequence[int],
        num_new: int,
        *,
        spare: int = 0,
        origin: Attribution | None = None,
    ) -> list[int] | None:
        """Refer to `matched` and to `num_new` blocks without content, evicting as needed.

        None, and nothing changed, when fewer than `spare` blocks would be left to take.
        """
        revived = sum(1 for block_id in matched if self._references[block_id] == 0)
        if num_new + revived + spare > len(self._empty) + len(self._free):
            return None
        for block_id in matched:
            self._refer(block_id)
        self._evict(num_new - len(self._empty), origin)
        new = [self._empty.pop() for _ in range(num_new)]
        for block_id in new:
            self._references[block_id] = 1
        return [*matched, *new]

    def store(self, block_ids: Sequence[int], run: BlocksStored) -> list[int]:
        """Make full blocks findable; returns the blocks to use from now on.

        A hash that is cached already keeps its block: the reference moves there,
        and the block given for it becomes empty.

        Raises:
            ValueError: a block is not referenced or has content already.
        """
        for block_id in block_ids:
            if self._references[block_id] == 0 or self._hash_of[block_id] is not None:
                raise ValueError(f"block {block_id} cannot be stored: not held, or stored before")
        kept: list[int] = []
        run_start = 0
        for index, block_id in enumerate(block_ids):
            block_hash = BlockHash(run.block_hashes[index])
            known = self._by_hash.get(block_hash)
            if known is None:
                self._by_hash[block_hash] = block_id
                self._hash_of[block_id] = block_hash
                kept.append(block_id)
                continue
            self._refer(known)
            self._drop(block_id)
            kept.append(known)
            self._record_stored(run, run_start, index)
            run_start = index + 1
        self._record_stored(run, run_start, len(block_ids))
        return kept

    def release(self, block_ids: Sequence[int]) -> None:
        """Let go of one reference to each block of a chain, its tail first.

        Raises:
            ValueError: a block is not referenced; nothing changed.
        """
        for block_id in block_ids:
            if self._references[block_id] == 0:
                raise ValueError(f"block {block_id} is released but nobody refers to it")
        for block_id in reversed(block_ids):
            self._drop(block_id)

    def record(self, event: CacheEvent) -> None:
        """Append an event in the order of what the pool itself has to say."""
        self._events.append(event)

    def drain_events(self) -> tuple[CacheEvent, ...]:
        """What happened since the last call, in order."""
        events, self._events = tuple(self._events), []
        return events

    def counts(self) -> PoolCounts:
        """How many blocks are in each state."""
        empty, free = len(self._empty), len(self._free)
        return PoolCounts(empty, free, self.num_blocks - empty - free)

    def resident(self) -> frozenset[BlockHash]:
        """The hashes that a lookup would find."""
        return frozenset(self._by_hash)

    def check(self) -> None:
        """The laws that hold between any two calls."""
        referenced = {i for i, count in enumerate(self._references) if count > 0}
        assert all(count >= 0 for count in self._references)
        assert len(set(self._empty)) == len(self._empty)
        assert not referenced & set(self._empty)
        assert not referenced & set(self._free)
        assert not set(self._empty) & set(self._free)
        assert len(referenced) + len(self._empty) + len(self._free) == self.num_blocks
        assert {i for i, h in enumerate(self._hash_of) if h is not None} == set(
            self._by_hash.values()
        )
        assert all(self._hash_of[i] == h for h, i in self._by_hash.items())
        assert set(self._free) <= set(self._by_hash.values())

    def _refer(self, block_id: int) -> None:
        if self._references[block_id] == 0:
            del self._free[block_id]
        self._references[block_id] += 1

    def _drop(self, block_id: int) -> None:
        self._references[block_id] -= 1
        if self._references[block_id] > 0:
            return
        if self._hash_of[block_id] is None:
            self._empty.append(block_id)
        else:
            self._free[block_id] = None

    def _evict(self, count: int, origin: Attribution | None) -> None:
        if count <= 0:
            return
        removed = array("Q")
        for _ in range(count):
            block_id, _none = self._free.popitem(last=False)
            block_hash = self._hash_of[block_id]
            assert block_hash is not None
            removed.append(block_hash)
            del self._by_hash[block_hash]
            self._hash_of[block_id] = None
            self._empty.append(block_id)
        self.num_evicted_total += count
        self.record(BlocksRemoved(removed, origin=origin))

    def _record_stored(self, run: BlocksStored, start: int, stop: int) -> None:
        if start == stop:
            return
        self.num_stored_total += stop - start
        self.record(
            replace(
                run,
                block_hashes=run.block_hashes[start:stop],
                parent_hash=BlockHash(run.block_hashes[start - 1]) if start else run.parent_hash,
                token_ids=run.token_ids[start * self.block_size : stop * self.block_size],
                start_block=run.start_block + start,
                media=_media_of(run, start, stop),
            )
        )

    def __repr__(self) -> str:
        counts = self.counts()
        return (
            f"<BlockPool {self.num_blocks} blocks: {counts.empty} empty, "
            f"{counts.free} free, {counts.referenced} referenced>"
        )


def _media_of(run: BlocksStored, start: int, stop: int) -> tuple[MediaKey, ...]:
    """The media of a run's blocks [start, stop), counted from `start`."""
    return tuple(
        replace(key, block_index=key.block_index - start)
        for key in run.media
        if start <= key.block_index < stop
    )
