"""Which KV block holds what, who uses it and which one is forgotten next.

A block is a number on a tier; the tensors behind it are the runner's business.

    state        references   findable by hash       tier
    ----------   ----------   --------------------   --------------
    empty        0            no                     device or host
    referenced   > 0          once full and stored   device
    free         0            yes                    device or host

    acquire:  empty | free -> referenced; what lies on the host comes over a copy;
              where no device block is empty, free ones move to the host, and what
              finds no room there is forgotten
    store:    referenced -> referenced, findable
    release:  referenced -> empty, or free when it is findable

A block that changes its tier is told as stored on the new one, then as removed
from the old one, so that no reader ever sees it gone.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shepherd_events.block_runs import part_of
from shepherd_events.events import Attribution, BlockHash, BlocksRemoved, BlocksStored, Tier
from shepherd_worker.engine.embedded.cache.cached_block import CachedBlock, moved_runs
from shepherd_worker.engine.embedded.cache.eviction import PolicyFactory, PriorityLru
from shepherd_worker.engine.embedded.cache.retention import BlockRetention, Deadlines
from shepherd_worker.engine.embedded.cache.tiers import Tiers
from shepherd_worker.engine.protocol import CacheEvent
from shepherd_worker.request import DEFAULT_PRIORITY


@dataclass(frozen=True, slots=True)
class BlockCopy:
    """The record of block `source` goes to block `target` of the other tier."""

    to: Tier
    """HOST where `source` is a device block, DEVICE where it is a host block."""
    source: int
    target: int


@dataclass(frozen=True, slots=True)
class PoolCounts:
    """How many blocks of a tier are in each state; their sum never changes."""

    empty: int
    free: int
    referenced: int


class BlockPool:
    """See the module's docstring; for one thread."""

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        *,
        num_host_blocks: int = 0,
        policy: PolicyFactory = PriorityLru,
    ) -> None:
        """Fewer than two host blocks are none; each tier gets a policy of its own."""
        self.block_size = block_size
        self.num_stored_total = 0
        self.num_evicted_total = 0
        """Blocks that no tier holds any more."""
        self.num_offloaded_total = 0
        self.num_onboarded_total = 0
        self._tiers = Tiers(num_blocks, num_host_blocks, policy)
        self._stored: dict[int, CachedBlock] = {}
        """What lies in each device block that is full and findable."""
        self._unstored: set[int] = set()
        """Device blocks that one sequence fills."""
        self._deadlines = Deadlines()
        self._now_s = 0.0
        self._uses = itertools.count(1)
        self._events: list[CacheEvent] = []
        self._copies: list[BlockCopy] = []

    def tick(self, now_s: float) -> None:
        """Let time pass, on a monotonic clock: priorities whose duration is over end."""
        self._now_s = now_s
        for block in self._deadlines.ended(now_s):
            block.priority, block.duration_s = DEFAULT_PRIORITY, None
            self._tiers.revalue(block)

    def match(self, hashes: Iterable[BlockHash]) -> list[CachedBlock]:
        """The blocks of the longest cached prefix, device blocks first; takes no reference."""
        found: list[CachedBlock] = []
        for block_hash in hashes:
            block = self._tiers.by_hash.get(block_hash)
            if block is None:
                break
            found.append(block)
        return found

    def acquire(
        self,
        matched: Sequence[CachedBlock],
        num_new: int,
        *,
        spare: int = 0,
        origin: Attribution | None = None,
    ) -> list[int] | None:
        """Refer to `matched`, from `match` just now, and to `num_new` blocks without content.

        Returns device blocks; `drain_copies` says how content comes to lie in them.
        None, and nothing changed, when fewer than `spare` blocks would be left to take.
        """
        returning = [block for block in matched if block.tier is Tier.HOST]
        revived = sum(block.references == 0 for block in matched) - len(returning)
        num_taken = num_new + len(returning)
        device = self._tiers.device
        if num_taken + revived + spare > len(device.empty) + device.num_free:
            return None
        for block in matched:
            self._tiers.refer(block)
            block.used_by = origin
        self._make_room(num_taken, origin)
        self._onboard(returning, origin)
        new = [device.empty.pop() for _ in range(num_new)]
        self._unstored.update(new)
        return [*(block.block_id for block in matched), *new]

    def store(self, block_ids: Sequence[int], run: BlocksStored) -> list[int]:
        """Make full blocks findable; returns the blocks to use from now on.

        A hash that lies on the device already keeps its block: the reference moves
        there, and the block given for it becomes empty.  One that lies on the host
        moves to the block given.

        Raises:
            ValueError: a block is not referenced or has content already.
        """
        for block_id in block_ids:
            if block_id not in self._unstored:
                raise ValueError(f"block {block_id} cannot be stored: not held, or stored before")
        kept: list[int] = []
        left_host = array("Q")
        run_start = 0
        parent = None if run.parent_hash is None else self._tiers.by_hash[run.parent_hash]
        for index, block_id in enumerate(block_ids):
            self._unstored.remove(block_id)
            block = self._tiers.by_hash.get(BlockHash(run.block_hashes[index]))
            if block is None:
                block = CachedBlock((run, index), parent, block_id)
                self._add(block)
            elif block.tier is Tier.HOST:
                left_host.append(block.block_hash)
                self._tiers.refer(block)
                self._enter_device(block, block_id)
            else:
                self._tiers.refer(block)
                self._tiers.device.empty.append(block_id)
                self._record_stored(run, run_start, index)
                run_start = index + 1
            block.used_by = run.origin
            kept.append(block.block_id)
            parent = block
        self._record_stored(run, run_start, len(block_ids))
        self._record_removed(left_host, Tier.HOST, run.origin)
        return kept

    def retain(self, block_ids: Iterable[int], retentions: Iterable[BlockRetention | None]) -> None:
        """Say what stored blocks that are referred to are worth; None leaves one as it is."""
        for block_id, retention in zip(block_ids, retentions, strict=True):
            if retention is not None:
                block = self._stored[block_id]
                block.priority, block.duration_s = retention.priority, retention.duration_s

    def release(self, block_ids: Sequence[int]) -> None:
        """Let go of one reference to each block of a chain, its tail first.

        Raises:
            ValueError: a block is not referenced; nothing changed.
        """
        for block_id in block_ids:
            stored = self._stored.get(block_id)
            if block_id not in self._unstored and (stored is None or stored.references == 0):
                raise ValueError(f"block {block_id} is released but nobody refers to it")
        for block_id in reversed(block_ids):
            if block_id in self._unstored:
                self._unstored.remove(block_id)
                self._tiers.device.empty.append(block_id)
            else:
                self._drop(self._stored[block_id])

    def record(self, event: CacheEvent) -> None:
        """Append an event in the order of what the pool itself has to say."""
        self._events.append(event)

    def drain_events(self) -> tuple[CacheEvent, ...]:
        """What happened since the last call, in order."""
        events, self._events = tuple(self._events), []
        return events

    def drain_copies(self) -> list[BlockCopy]:
        """What must be copied, in this order, before a block acquired since is written to."""
        copies, self._copies = self._copies, []
        return copies

    def counts(self, tier: Tier = Tier.DEVICE) -> PoolCounts:
        """How many blocks are in each state."""
        blocks = self._tiers[tier]
        empty, free = len(blocks.empty), blocks.num_free
        return PoolCounts(empty, free, blocks.num_blocks - empty - free)

    def resident(self, tier: Tier = Tier.DEVICE) -> frozenset[BlockHash]:
        """The hashes that a lookup would find on a tier."""
        blocks = self._tiers.by_hash.items()
        return frozenset(block_hash for block_hash, block in blocks if block.tier is tier)

    def check(self) -> None:
        """The laws that hold between any two calls."""
        self._tiers.check(self._unstored)
        on_device = self.resident()
        assert {block.block_hash for block in self._stored.values()} == on_device
        assert all(place == block.block_id for place, block in self._stored.items())

    def _add(self, block: CachedBlock) -> None:
        self.num_stored_total += 1
        self._stored[block.block_id] = block
        self._tiers.add(block)

    def _drop(self, block: CachedBlock) -> None:
        if block.references == 1:
            block.used_at_s, block.use_order = self._now_s, next(self._uses)
            self._deadlines.used(block, self._now_s)
        self._tiers.drop(block)

    def _make_room(self, num_empty: int, origin: Attribution | None) -> None:
        """Have that many empty device blocks, without those that must go."""
        gone, forgotten_on_host = array("Q"), array("Q")
        arrived: dict[CachedBlock, int] = {}
        """To the device block that each has left."""
        while len(self._tiers.device.empty) < num_empty:
            block = self._tiers.leave_device()
            gone.append(block.block_hash)
            del self._stored[block.block_id]
            if not self._tiers.host.num_blocks:
                self.num_evicted_total += 1
                continue
            arrived[block] = block.block_id
            loser = self._tiers.enter_host(block)
            self.num_evicted_total += loser is not None
            if loser is not None and arrived.pop(loser, None) is None:
                forgotten_on_host.append(loser.block_hash)
        self._copies += [BlockCopy(Tier.HOST, at, block.block_id) for block, at in arrived.items()]
        self.num_offloaded_total += len(arrived)
        self._record_removed(forgotten_on_host, Tier.HOST, origin)  # before what is their parent
        self._events += moved_runs([*reversed(arrived)], Tier.HOST, origin)
        self._record_removed(gone, Tier.DEVICE, origin)

    def _onboard(self, blocks: Sequence[CachedBlock], origin: Attribution | None) -> None:
        """Bring host blocks of one chain, which are referred to, to empty device blocks."""
        for block in blocks:
            source, target = block.block_id, self._tiers.device.empty.pop()
            self._enter_device(block, target)
            self._copies.append(BlockCopy(Tier.DEVICE, source, target))
        self.num_onboarded_total += len(blocks)
        self._events += moved_runs(blocks, Tier.DEVICE, origin)
        left_host = array("Q", (block.block_hash for block in blocks))
        self._record_removed(left_host, Tier.HOST, origin)

    def _enter_device(self, block: CachedBlock, block_id: int) -> None:
        self._tiers.enter_device(block, block_id)
        self._stored[block_id] = block

    def _record_stored(self, run: BlocksStored, start: int, stop: int) -> None:
        if start < stop:
            self.record(part_of(run, start, stop))

    def _record_removed(self, hashes: array[int], tier: Tier, origin: Attribution | None) -> None:
        if hashes:
            self.record(BlocksRemoved(hashes, tier, origin=origin))

    def __repr__(self) -> str:
        tiers = ", ".join(
            f"{tier.name.lower()} {counts.empty} empty {counts.free} free {counts.referenced} referenced"
            for tier in (Tier.DEVICE, Tier.HOST)
            if (counts := self.counts(tier)) != PoolCounts(0, 0, 0)
        )
        return f"<BlockPool {tiers}>"
