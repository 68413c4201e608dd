"""A full block that a lookup finds: what it holds, where it lies, what it is worth.

Knows nothing of other blocks but its parent; `tiers.py` and `block_pool.py`
alone change it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from shepherd_events.block_runs import RunPart, runs_of
from shepherd_events.events import Attribution, BlockHash, BlocksStored, Tier
from shepherd_worker.engine.embedded.cache.eviction import Evictable
from shepherd_worker.request import DEFAULT_PRIORITY


@dataclass(slots=True, eq=False)
class CachedBlock:
    """See the module's docstring; lies on exactly one tier at a time."""

    stored: tuple[BlocksStored, int]
    """The run it came with, and its place in it: hash, tokens, position and context."""
    parent: CachedBlock | None
    block_id: int
    """Its place on its tier."""
    tier: Tier = Tier.DEVICE
    references: int = 1
    """Sequences and leases that use it; only a device block has any."""
    num_children: int = 0
    """Blocks whose parent it is, wherever they lie."""
    num_children_beside: int = 0
    """Those of them on the same tier."""
    priority: int = DEFAULT_PRIORITY
    duration_s: float | None = None
    due_s: float = math.inf
    """When `priority` falls back to the default, unless it is used before."""
    queued_s: float = math.inf
    """When somebody will look whether it is due."""
    used_by: Attribution | None = None
    used_at_s: float = 0.0
    use_order: int = 0
    block_hash: BlockHash = field(init=False)

    def __post_init__(self) -> None:
        run, index = self.stored
        self.block_hash = BlockHash(run.block_hashes[index])

    @property
    def is_idle_leaf(self) -> bool:
        """Whether it may leave its tier."""
        return self.references == 0 and self.num_children_beside == 0

    def as_evictable(self) -> Evictable:
        """What a policy may know of it."""
        run, index = self.stored
        return Evictable(
            block_hash=self.block_hash,
            tier=self.tier,
            block_id=self.block_id,
            priority=self.priority,
            position=run.start_block + index,
            stored_by=run.origin,
            used_by=self.used_by,
            used_at_s=self.used_at_s,
            use_order=self.use_order,
        )

    def __repr__(self) -> str:
        return f"<CachedBlock {self.block_hash:x} at {self.tier.name} {self.block_id}>"


def moved_runs(
    blocks: Sequence[CachedBlock], tier: Tier, origin: Attribution | None
) -> Iterator[BlocksStored]:
    """How to say that blocks, parents before their children, were stored on `tier`."""
    start = 0
    for stop in range(1, len(blocks) + 1):
        if stop == len(blocks) or blocks[stop].parent is not blocks[stop - 1]:
            places = [block.stored for block in blocks[start:stop]]
            chain = [RunPart(run, index, index + 1) for run, index in places]
            for run in runs_of(chain):
                yield replace(run, tier=tier, origin=origin)
            start = stop
