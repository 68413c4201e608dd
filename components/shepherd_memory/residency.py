"""Where the blocks of a turn lie now, for whoever shows it to people.

    block      nearest tier that holds it on any worker; None where nobody does
    turn       its blocks in order, and how many of them each worker's tiers hold

Knows nothing of turns' words and states; what a missing block means is said by
`eviction.py`.  Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from shepherd_events.events import StreamId, Tier
from shepherd_events.stream_cursor import Position
from shepherd_memory.block_index import Holder


class Caches(Protocol):
    """What is known of the workers' caches now."""

    @property
    def positions(self) -> Mapping[StreamId, Position]:
        """Where each stream stands as of the last commit; replaced, never changed; any thread."""
        ...

    def holders(self, block_hash: int) -> frozenset[Holder]:
        """Where a block lies; writer thread."""
        ...

    def resident(self) -> Mapping[Holder, int]:
        """Number of blocks per stream and tier, of all tenants together; writer thread."""
        ...


@dataclass(frozen=True, slots=True)
class Residency:
    """Where one turn's blocks lie."""

    tiers: tuple[Tier | None, ...]
    """Block by block, the nearest tier."""
    held: Mapping[Holder, int]
    """How many of the blocks each tier of each worker holds; only who holds any."""

    @property
    def num_resident(self) -> int:
        """Blocks that somebody holds."""
        return len(self.tiers) - self.tiers.count(None)

    @property
    def is_whole(self) -> bool:
        """Whether every block is held, and there is one."""
        return bool(self.tiers) and None not in self.tiers


def residency_of(
    block_hashes: Iterable[int], holders: Callable[[int], frozenset[Holder]]
) -> Residency:
    """Look every block of a turn up."""
    tiers: list[Tier | None] = []
    held: Counter[Holder] = Counter()
    for block_hash in block_hashes:
        found = holders(block_hash)
        held.update(found)
        tiers.append(min((tier for _, tier in found), default=None))
    return Residency(tuple(tiers), dict(held))
