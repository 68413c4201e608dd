"""Which news remain of a cache's events for a reader that knows no tiers.

    tiers that hold a block   stored on t          removed from t
    -----------------------   ------------------   -------------------------
    none                      told, {t}            -
    {t}                       -                    told, none
    others, perhaps t         -, others and t      -, others without t

Pure; not safe for threads.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from shepherd_events.block_runs import part_of
from shepherd_events.events import BlocksRemoved, BlocksStored


class TierFold:
    """Block hash -> one bit for each tier that holds it."""

    def __init__(self) -> None:
        self._tiers: dict[int, int] = {}

    def stored(self, run: BlocksStored) -> Iterator[BlocksStored]:
        """The parts of a run that no tier had before, in order."""
        bit, start = 1 << run.tier, 0
        for at, block_hash in enumerate(run.block_hashes):
            before = self._tiers.get(block_hash, 0)
            self._tiers[block_hash] = before | bit
            if before:
                if start < at:
                    yield part_of(run, start, at)
                start = at + 1
        if start < len(run.block_hashes):
            yield part_of(run, start, len(run.block_hashes))

    def removed(self, event: BlocksRemoved) -> array[int]:
        """The hashes that no tier has any more."""
        bit, gone = 1 << event.tier, array("Q")
        for block_hash in event.block_hashes:
            before = self._tiers.get(block_hash, 0)
            left = before & ~bit
            if left:
                self._tiers[block_hash] = left
            elif before:
                del self._tiers[block_hash]
                gone.append(block_hash)
        return gone

    def __repr__(self) -> str:
        return f"<TierFold {len(self._tiers)} blocks>"
