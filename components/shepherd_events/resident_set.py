"""Which blocks are resident after a sequence of block events, without any I/O.

A block is known by (tier, group, hash); `block_log.py` keeps those of one tier
and group.  Storing a run copies no tokens.  Storing what is resident and removing
what is not change nothing: applying the events of a snapshot twice, or over it,
is harmless.

The publisher answers snapshots from one of these; a reader that applies the
same events holds the same set, with the same digest.  Not safe for threads.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from shepherd_events.block_log import BlockLog, BlockView
from shepherd_events.block_runs import block_size_of, parent_of, runs_of
from shepherd_events.events import (
    Attribution,
    BlockBatch,
    BlockEvent,
    BlockHash,
    BlocksCleared,
    BlocksRemoved,
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


class ResidentSet:
    """What one stream's cache holds."""

    def __init__(self, events: Iterable[BlockEvent] = ()) -> None:
        self._holdings: dict[tuple[Tier, int], BlockLog] = {}
        for event in events:
            self.apply(event)

    def apply(self, event: BlockEvent) -> None:
        """Follow one event; the set keeps a reference to stored runs."""
        if isinstance(event, BlocksStored):
            holding = self._holdings.get((event.tier, event.group))
            if holding is None:
                holding = self._holdings[event.tier, event.group] = BlockLog()
            holding.add(event)
        elif isinstance(event, BlocksRemoved):
            holding = self._holdings.get((event.tier, event.group))
            if holding is not None:
                holding.remove(event.block_hashes)
        elif isinstance(event, BlocksCleared):
            for key in [key for key in self._holdings if event.tier in {None, key[0]}]:
                del self._holdings[key]

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
        return frozenset() if holding is None else holding.hashes()

    def block(
        self, block_hash: BlockHash, tier: Tier = Tier.DEVICE, *, group: int = 0
    ) -> ResidentBlock | None:
        """One resident block, or None."""
        holding = self._holdings.get((tier, group))
        place = None if holding is None else holding.find(block_hash)
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
        return sum(map(len, self._holdings.values()))

    def digest(self) -> tuple[TierState, ...]:
        """Count and exclusive or of the hashes of each tier that holds any, in tier order."""
        counts: dict[Tier, tuple[int, int]] = {}
        for (tier, _), holding in sorted(self._holdings.items()):
            if len(holding):
                blocks, xor = counts.get(tier, (0, 0))
                counts[tier] = (blocks + len(holding), xor ^ holding.xor)
        return tuple(TierState(tier, blocks, xor) for tier, (blocks, xor) in counts.items())

    def view(self) -> ResidentView:
        """What is resident now, for another thread to read at leisure; see `BlockLog.view`."""
        logs = sorted(self._holdings.items(), key=lambda item: item[0])
        return ResidentView(tuple(log.view() for _, log in logs), self.digest())

    def snapshot(self) -> Iterator[BlocksStored]:
        """Runs that rebuild this set as it is now; see `ResidentView.snapshot`."""
        return self.view().snapshot()

    def __repr__(self) -> str:
        counts = ", ".join(f"{state.tier.name} {state.blocks}" for state in self.digest())
        return f"<ResidentSet {counts or 'empty'}>"


class ResidentView:
    """What was resident at one moment, whatever happened to the set since."""

    def __init__(self, logs: tuple[BlockView, ...], digest: tuple[TierState, ...]) -> None:
        self._logs = logs
        self._digest = digest

    def digest(self) -> tuple[TierState, ...]:
        """As `ResidentSet.digest`, of that moment."""
        return self._digest

    def snapshot(self, breathe: Callable[[], object] = lambda: None) -> Iterator[BlocksStored]:
        """Runs that rebuild the set when applied in order, parents before children.

        `breathe` is called now and then, so that a busy thread can let others work.
        """
        for log in self._logs:
            for chain in log.chains(breathe):
                yield from runs_of(chain)
