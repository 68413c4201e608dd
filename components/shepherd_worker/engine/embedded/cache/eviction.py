"""Which of the blocks that may be forgotten is forgotten first.

A policy orders what it is offered and knows nothing else.  The pool offers
*leaves* only: blocks that nobody refers to and that have no child on their tier.
So no policy can tear a hole into a chain.  Every tier has a policy of its own.

    pool                                  policy
    ----                                  ------
    a block has become an idle leaf  -->  add
    it is used again, or gets a child,
    or another priority              -->  remove  (and `add` once more)
    room is needed                   -->  pop
"""

from __future__ import annotations

import heapq
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from shepherd_events.events import Attribution, BlockHash, Tier


@dataclass(frozen=True, slots=True, kw_only=True)
class Evictable:
    """An idle leaf, as a policy sees it."""

    block_hash: BlockHash
    """Names the block in `remove` and `pop`."""
    tier: Tier
    block_id: int
    """Where it lies on its tier."""
    priority: int
    """0 to 100: what the requests that used it asked for."""
    position: int
    """In its sequence, counted in blocks from 0."""
    stored_by: Attribution | None
    used_by: Attribution | None
    """The last request that hit or stored it."""
    used_at_s: float
    """When it was last let go of, on the engine's monotonic clock."""
    use_order: int
    """Rises with every block that is let go of: finer than the clock, a child's below its parent's."""


class EvictionPolicy(Protocol):
    """Orders the idle leaves of one tier; called by one thread, and must not block."""

    def add(self, block: Evictable) -> None:
        """`block` may be chosen from now on; it was not offered before."""
        ...

    def remove(self, block_hash: BlockHash) -> None:
        """A block that was offered may not be chosen any more."""
        ...

    def pop(self) -> BlockHash:
        """Choose one of the blocks on offer, which is no longer on offer then; there is one."""
        ...


PolicyFactory = Callable[[], EvictionPolicy]


class PriorityLru:
    """Lowest priority first, least recently used first among equals; O(log n) each.

    Removed blocks stay in the heap until they surface or outnumber the others.
    """

    def __init__(self) -> None:
        self._ranks: dict[BlockHash, tuple[int, int]] = {}
        self._heap: list[tuple[int, int, BlockHash]] = []

    def add(self, block: Evictable) -> None:
        """See `EvictionPolicy.add`."""
        rank = (block.priority, block.use_order)
        self._ranks[block.block_hash] = rank
        heapq.heappush(self._heap, (*rank, block.block_hash))
        if len(self._heap) > 2 * len(self._ranks) + 64:
            self._heap = [(*kept, block_hash) for block_hash, kept in self._ranks.items()]
            heapq.heapify(self._heap)

    def remove(self, block_hash: BlockHash) -> None:
        """See `EvictionPolicy.remove`."""
        del self._ranks[block_hash]

    def pop(self) -> BlockHash:
        """See `EvictionPolicy.pop`."""
        while True:
            *rank, block_hash = heapq.heappop(self._heap)
            if self._ranks.get(block_hash) == tuple(rank):
                del self._ranks[block_hash]
                return block_hash

    def __repr__(self) -> str:
        return f"<PriorityLru {len(self._ranks)} on offer>"


def load_policy(name: str) -> PolicyFactory:
    """The policy of a name: "lru", or "MODULE:FACTORY", whose module is imported.

    Raises:
        ValueError: there is no such policy; says why.
    """
    if name == "lru":
        return PriorityLru
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise ValueError(f"{name!r} is neither lru nor MODULE:FACTORY")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name!r} cannot be loaded: {error}") from error
    if not callable(factory) or any(
        not callable(getattr(factory(), method, None)) for method in ("add", "remove", "pop")
    ):
        raise ValueError(f"{name!r} makes nothing with the methods add, remove and pop")
    made: PolicyFactory = factory
    return made
