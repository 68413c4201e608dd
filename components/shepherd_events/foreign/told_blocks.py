"""Which blocks readers of vLLM's form were told of, without any I/O.

vLLM tells of every copy of a block, so that its readers count: a block that was
told twice must be removed twice.  Ours tell of the first copy and of the last
removal; telling nothing twice keeps both counts the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from shepherd_events.block_runs import part_of
from shepherd_events.events import (
    BlockEvent,
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
    Tier,
)


class ToldBlocks:
    """Hashes by tier and group."""

    def __init__(self) -> None:
        self._told: dict[tuple[Tier, int], set[int]] = {}

    def news(self, event: BlockEvent) -> Iterator[BlockEvent]:
        """The parts of an event that are news, in order; remembered as told."""
        match event:
            case BlocksStored():
                yield from self._stored(event)
            case BlocksRemoved():
                told = self._told.get((event.tier, event.group), set())
                gone = [block for block in dict.fromkeys(event.block_hashes) if block in told]
                told.difference_update(gone)
                if gone:
                    hashes = event.block_hashes[:0]
                    hashes.extend(gone)
                    yield replace(event, block_hashes=hashes)
            case BlocksCleared(tier=None):
                self._told.clear()
                yield event
            case _:
                yield event

    def _stored(self, run: BlocksStored) -> Iterator[BlocksStored]:
        told = self._told.setdefault((run.tier, run.group), set())
        start = 0
        for at, block_hash in enumerate(run.block_hashes):
            if block_hash in told:
                if start < at:
                    yield part_of(run, start, at)
                start = at + 1
            told.add(block_hash)
        if start < len(run.block_hashes):
            yield part_of(run, start, len(run.block_hashes))

    def __repr__(self) -> str:
        return f"<ToldBlocks {sum(map(len, self._told.values()))} blocks>"
