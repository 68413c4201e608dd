"""Which blocks to load from a store, and which to save.

Pure: no I/O, no tensors, no clock.  A prompt's blocks, in order:

    0          num_cached            stop                 reusable
    |-- device, host --|-- loaded --|-- computed, saved --|
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from shepherd_events.events import BlockHash, BlocksRemoved, BlocksStored, Tier
from shepherd_worker.engine.protocol import CacheEvent


def plan_load(found: Sequence[bool], *, num_cached: int, max_blocks: int) -> range:
    """The blocks to load: those after the cached ones, up to the first that is not there."""
    stop = num_cached
    while stop < len(found) and found[stop] and stop - num_cached < max_blocks:
        stop += 1
    return range(num_cached, stop)


@dataclass(frozen=True, slots=True)
class SavePlan:
    """What a step leaves to be saved."""

    hashes: list[BlockHash]
    """Parents first."""
    num_dropped: int
    """Blocks for which there is no room; their children may still be saved later."""


def plan_save(
    events: Iterable[CacheEvent], *, loaded: AbstractSet[BlockHash], max_blocks: int
) -> SavePlan:
    """What a step computed: stored on the device, and given neither by the host nor by the store."""
    events = tuple(events)
    moved = {
        block_hash
        for event in events
        if isinstance(event, BlocksRemoved) and event.tier is Tier.HOST
        for block_hash in event.block_hashes
    }
    hashes = [
        BlockHash(block_hash)
        for event in events
        if isinstance(event, BlocksStored) and event.tier is Tier.DEVICE
        for block_hash in event.block_hashes
        if block_hash not in loaded and block_hash not in moved
    ]
    kept = hashes[: max(0, max_blocks)]
    return SavePlan(kept, len(hashes) - len(kept))
