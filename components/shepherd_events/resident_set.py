"""Which blocks are resident after a sequence of block events, without any I/O.

A block is known by (tier, group, hash).  It keeps a reference to the event that
stored it and its place in that event, so that storing a run copies no tokens.
Storing what is resident and removing what is not change nothing: applying the
events of a snapshot twice, or over it, is harmless.

The publisher answers snapshots from one of these; a reader that applies the
same events holds the same set, with the same digest.  Not safe for threads.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from shepherd_events.block_runs import block_size_of, parent_of, runs_of
from shepherd_events.events import (
    Attribution,
    BlockBatch,
    BlockEvent,
    BlockHash,
    BlocksCleared,
    BlocksRemoved,
    BlocksReused,
    BlocksStored,
    CacheContext,
    Tier,
    TierState,
)
from shepherd_events.subscription_types import Item, Reset


@dataclass(frozen=True, slots=True)
class ResidentBlock:
    """One block as it was stored."""

    block_hash: BlockHash
    parent_hash: BlockHash | None
    token_ids: array[int]
    """Empty where the run came without tokens."""
    position: int
    """In its sequence, counted in blocks from 0."""
    context: CacheContext
    origin: Attribution | None


@dataclass(slots=True)
class _Holding:
    """The blocks of one tier and group: hash -> (the event that stored it, index in it)."""

    blocks: dict[int, tuple[BlocksStored, int]] = field(default_factory=dict)
    xor: int = 0

    def add(self, event: BlocksStored) -> None:
        for index, block_hash in enumerate(event.block_hashes):
            if block_hash not in self.blocks:
                self.blocks[block_hash] = (event, index)
                self.xor ^= block_hash

    def remove(self, event: BlocksRemoved) -> None:
        for block_hash in event.block_hashes:
            if self.blocks.pop(block_hash, None) is not None:
                self.xor ^= block_hash

    def chains(self) -> Iterator[list[tuple[BlocksStored, int]]]:
        """Every block once, in chains of parent and child, parents before children.

        The newest blocks are mostly leaves: walking up from them finds long chains.
        """
        taken: set[int] = set()
        for leaf in reversed(self.blocks):
            chain = []
            block_hash: int | None = leaf
            while block_hash is not None and block_hash not in taken:
                place = self.blocks.get(block_hash)
                if place is None:
                    break
                taken.add(block_hash)
                chain.append(place)
                block_hash = parent_of(*place)
            if chain:
                yield chain[::-1]


class ResidentSet:
    """What one stream's cache holds."""

    def __init__(self, events: Iterable[BlockEvent] = ()) -> None:
        self._holdings: dict[tuple[Tier, int], _Holding] = {}
        for event in events:
            self.apply(event)

    def apply(self, event: BlockEvent) -> None:
        """Follow one event; the set keeps a reference to stored runs."""
        match event:
            case BlocksStored(tier=tier, group=group):
                self._holdings.setdefault((tier, group), _Holding()).add(event)
            case BlocksRemoved(tier=tier, group=group):
                if holding := self._holdings.get((tier, group)):
                    holding.remove(event)
            case BlocksCleared(tier=None):
                self._holdings.clear()
            case BlocksCleared(tier=tier):
                for key in [key for key in self._holdings if key[0] == tier]:
                    del self._holdings[key]
            case BlocksReused():
                pass

    def follow(self, item: Item) -> None:
        """Follow one item of a subscription: hold what a `Reset` says, or apply a frame."""
        if isinstance(item, Reset):
            self._holdings.clear()
            events: Iterable[BlockEvent] = item.blocks
        else:
            events = item.body.events if isinstance(item.body, BlockBatch) else ()
        for event in events:
            self.apply(event)

    def hashes(self, tier: Tier = Tier.DEVICE, *, group: int = 0) -> frozenset[int]:
        """The hashes resident on one tier."""
        holding = self._holdings.get((tier, group))
        return frozenset(holding.blocks) if holding else frozenset()

    def block(
        self, block_hash: BlockHash, tier: Tier = Tier.DEVICE, *, group: int = 0
    ) -> ResidentBlock | None:
        """One resident block, or None."""
        holding = self._holdings.get((tier, group))
        place = holding.blocks.get(block_hash) if holding else None
        if place is None:
            return None
        event, index = place
        size = block_size_of(event)
        return ResidentBlock(
            block_hash=block_hash,
            parent_hash=parent_of(event, index),
            token_ids=event.token_ids[index * size : (index + 1) * size],
            position=event.start_block + index,
            context=event.context,
            origin=event.origin,
        )

    def __len__(self) -> int:
        return sum(len(holding.blocks) for holding in self._holdings.values())

    def digest(self) -> tuple[TierState, ...]:
        """Count and exclusive or of the hashes of each tier that holds any, in tier order."""
        counts: dict[Tier, tuple[int, int]] = {}
        for (tier, _), holding in sorted(self._holdings.items()):
            if holding.blocks:
                blocks, xor = counts.get(tier, (0, 0))
                counts[tier] = (blocks + len(holding.blocks), xor ^ holding.xor)
        return tuple(TierState(tier, blocks, xor) for tier, (blocks, xor) in counts.items())

    def copy(self) -> ResidentSet:
        """An independent set of the same blocks; a million take a twentieth of a second or more."""
        twin = ResidentSet()
        for key, holding in self._holdings.items():
            twin._holdings[key] = _Holding(holding.blocks.copy(), holding.xor)
        return twin

    def snapshot(self) -> Iterator[BlocksStored]:
        """Runs that rebuild this set when applied in order, parents before children.

        The set must not change while the iterator is in use: take a `copy`.
        """
        for _, holding in sorted(self._holdings.items(), key=lambda item: item[0]):
            for chain in holding.chains():
                yield from runs_of(chain)

    def __repr__(self) -> str:
        counts = ", ".join(f"{state.tier.name} {state.blocks}" for state in self.digest())
        return f"<ResidentSet {counts or 'empty'}>"
