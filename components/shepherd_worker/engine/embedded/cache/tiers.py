"""Where cached blocks lie, and which of them may leave.

    device   full blocks, those being filled, and empty places
    host     full blocks that nobody refers to, and empty places, at least one

Content lies on one tier at a time.  Whoever refers to a block refers to its
parent as well, and blocks leave a tier as leaves: so of each chain the beginning
lies on the device, the rest on the host, and no block outlives its parent.

The host tier's empty place is for the block that comes next, which is weighed
against those that are there once it has come.  Knows neither events nor copies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shepherd_events.events import BlockHash, Tier
from shepherd_worker.engine.embedded.cache.cached_block import CachedBlock
from shepherd_worker.engine.embedded.cache.eviction import EvictionPolicy, PolicyFactory


class TierBlocks:
    """The places of one tier."""

    def __init__(self, num_blocks: int, policy: EvictionPolicy) -> None:
        self.num_blocks = num_blocks
        self.empty = list(reversed(range(num_blocks)))
        """Places without content."""
        self.num_free = 0
        """Places whose content nobody refers to, offered or not."""
        self._policy = policy
        self._offered: dict[BlockHash, CachedBlock] = {}

    def offer(self, block: CachedBlock) -> None:
        """Let the policy choose an idle leaf."""
        self._offered[block.block_hash] = block
        self._policy.add(block.as_evictable())

    def withdraw(self, block: CachedBlock) -> None:
        """Keep a block from the policy; without effect where it was not offered."""
        if self._offered.pop(block.block_hash, None) is not None:
            self._policy.remove(block.block_hash)

    def choose(self) -> CachedBlock:
        """The idle leaf that the policy gives up, which is no longer offered.

        Raises:
            RuntimeError: the policy chose what it was not offered.
        """
        chosen = self._policy.pop()
        block = self._offered.pop(chosen, None)
        if block is None:
            raise RuntimeError(f"{self._policy!r} chose {chosen!r}, which is not on offer")
        return block

    def check(self, blocks: Sequence[CachedBlock], unstored: Iterable[int]) -> None:
        """Conservation, where `blocks` are all that lie here."""
        places = [*self.empty, *unstored, *(block.block_id for block in blocks)]
        assert sorted(places) == list(range(self.num_blocks))
        assert self.num_free == sum(block.references == 0 for block in blocks)
        assert set(self._offered.values()) == {block for block in blocks if block.is_idle_leaf}


class Tiers:
    """Every cached block by its hash, and the moves that keep chains whole."""

    def __init__(self, num_device_blocks: int, num_host_blocks: int, policy: PolicyFactory) -> None:
        """Fewer than two host blocks are no tier: one place is kept empty."""
        self.device = TierBlocks(num_device_blocks, policy())
        self.host = TierBlocks(num_host_blocks if num_host_blocks > 1 else 0, policy())
        self.by_hash: dict[BlockHash, CachedBlock] = {}
        self._by_tier = {Tier.DEVICE: self.device, Tier.HOST: self.host}

    def __getitem__(self, tier: Tier) -> TierBlocks:
        return self._by_tier[tier]

    def add(self, block: CachedBlock) -> None:
        """Make a device block findable."""
        self.by_hash[block.block_hash] = block
        if block.parent is not None:
            block.parent.num_children += 1
            block.parent.num_children_beside += 1

    def refer(self, block: CachedBlock) -> None:
        """Use a block once more: it stays where it is."""
        if block.references == 0:
            self[block.tier].num_free -= 1
            self[block.tier].withdraw(block)
        block.references += 1

    def drop(self, block: CachedBlock) -> None:
        """Use a device block once less; one that nobody uses may leave after its children."""
        block.references -= 1
        if block.references == 0:
            self.device.num_free += 1
            self._offer_leaf(block)

    def revalue(self, block: CachedBlock) -> None:
        """Have an idle block's place in the order of eviction follow its priority."""
        if block.is_idle_leaf:
            self[block.tier].withdraw(block)
            self[block.tier].offer(block)

    def leave_device(self) -> CachedBlock:
        """Take the block that must go off the device; `block_id` still says where it lay."""
        block = self.device.choose()
        self.device.num_free -= 1
        self.device.empty.append(block.block_id)
        self._lose_child_beside(block.parent)
        if not self.host.num_blocks:
            self._forget(block)
        return block

    def enter_host(self, block: CachedBlock) -> CachedBlock | None:
        """Give a block that left the device a place; the one that is forgotten for it, if any."""
        block.tier, block.block_id = Tier.HOST, self.host.empty.pop()
        block.num_children_beside = block.num_children
        self.host.num_free += 1
        self._offer_leaf(block)
        if self.host.empty:
            return None
        loser = self.host.choose()
        self.host.num_free -= 1
        self.host.empty.append(loser.block_id)
        self._forget(loser)
        if loser.parent is not None and loser.parent.tier is Tier.HOST:
            self._lose_child_beside(loser.parent)
        return loser

    def enter_device(self, block: CachedBlock, block_id: int) -> None:
        """Move a host block that is referred to, and whose parent is on the device, there."""
        self.host.empty.append(block.block_id)
        block.tier, block.block_id, block.num_children_beside = Tier.DEVICE, block_id, 0
        if block.parent is not None:
            block.parent.num_children_beside += 1

    def check(self, unstored: Iterable[int]) -> None:
        """The laws that hold between any two steps; `unstored` are device places being filled."""
        blocks = tuple(self.by_hash.values())
        for block in blocks:
            parent = block.parent
            assert self.by_hash[block.block_hash] is block
            assert parent is None or self.by_hash[parent.block_hash] is parent
            if parent is not None and block.tier is Tier.DEVICE:
                assert parent.tier is Tier.DEVICE
                assert parent.references > 0 or block.references == 0
        parents = [block.parent for block in blocks]
        beside = [b.parent for b in blocks if b.parent and b.parent.tier is b.tier]
        assert all(block.num_children == parents.count(block) for block in blocks)
        assert all(block.num_children_beside == beside.count(block) for block in blocks)
        on_device = [block for block in blocks if block.tier is Tier.DEVICE]
        on_host = [block for block in blocks if block.tier is Tier.HOST]
        self.device.check(on_device, unstored)
        self.host.check(on_host, ())
        assert all(block.references == 0 for block in on_host)
        assert self.host.empty or not self.host.num_blocks

    def _lose_child_beside(self, parent: CachedBlock | None) -> None:
        if parent is not None:
            parent.num_children_beside -= 1
            self._offer_leaf(parent)

    def _offer_leaf(self, block: CachedBlock) -> None:
        if block.is_idle_leaf:
            self[block.tier].offer(block)

    def _forget(self, block: CachedBlock) -> None:
        del self.by_hash[block.block_hash]
        block.duration_s = None
        if block.parent is not None:
            block.parent.num_children -= 1
