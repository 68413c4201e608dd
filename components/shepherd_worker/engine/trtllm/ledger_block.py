"""One block of a rank's cache as its ledger knows it, and how many of them are where."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

from shepherd_events.events import Attribution, BlockHash, CacheContext, MediaSpan, Tier
from shepherd_worker.engine.trtllm.kv_events import BlockName

TIERS = {0: Tier.DEVICE, 1: Tier.HOST}
"""TensorRT-LLM's cache levels."""


@dataclass(slots=True)
class LedgerBlock:
    """A full block that the engine told of."""

    name: BlockName
    block_hash: BlockHash
    parent: LedgerBlock | None
    position: int
    """In its chain, from 0."""
    token_ids: array[int]
    context: CacheContext
    origin: Attribution | None
    tier: Tier
    children: dict[BlockName, LedgerBlock] = field(default_factory=dict)
    media: tuple[MediaSpan, ...] = ()
    """The images that its tokens stand for, wholly or in part."""
    told: bool = False
    """Whether readers know of it; not so after a loss, until something proves it."""


@dataclass(slots=True)
class LedgerCounts:
    """Totals since the start."""

    stored: int = 0
    evicted: int = 0
    offloaded: int = 0
    onboarded: int = 0
    lost_events: int = 0
    """Events that the engine discarded before we took them."""
    losses: int = 0
    """Times that everything had to be taken back."""
    unmapped: int = 0
    """Full blocks that cannot be told: their chain's beginning is not known, or whose images they hold."""
    late: int = 0
    """Ends of sequences that were told although blocks of theirs were not stored in time."""


def with_descendants(block: LedgerBlock) -> Iterator[LedgerBlock]:
    """A block and everything below it."""
    pending = [block]
    while pending:
        block = pending.pop()
        yield block
        pending.extend(block.children.values())


def continues(last: LedgerBlock, block: LedgerBlock) -> bool:
    """Whether a block may follow another in one event."""
    return block.parent is last and (block.tier, block.origin) == (last.tier, last.origin)


class Residency:
    """Which blocks readers know of, by tier; the engine may have several names for the same block."""

    def __init__(self) -> None:
        self.num_on = dict.fromkeys(TIERS.values(), 0)
        """Blocks on each tier; any thread may read it."""
        self._holders: dict[tuple[int, Tier], int] = {}

    def add(self, value: int, tier: Tier) -> bool:
        """A block is there under one more name; whether it is the first."""
        held = self._holders.get((value, tier), 0)
        self._holders[value, tier] = held + 1
        self.num_on[tier] += not held
        return not held

    def remove(self, value: int, tier: Tier) -> bool:
        """A block is there under one name less; whether it was the last."""
        self._holders[value, tier] -= 1
        if self._holders[value, tier]:
            return False
        del self._holders[value, tier]
        self.num_on[tier] -= 1
        return True

    def clear(self) -> None:
        """Nothing is there."""
        self._holders.clear()
        self.num_on.update(dict.fromkeys(TIERS.values(), 0))

    def has(self, value: int) -> bool:
        """Whether any tier has a block."""
        return any((value, tier) in self._holders for tier in TIERS.values())

    def prefix(self, values: list[BlockHash]) -> list[BlockHash]:
        """The leading blocks that are there."""
        for index, value in enumerate(values):
            if not self.has(value):
                return values[:index]
        return values
