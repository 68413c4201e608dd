"""Where each block lies: a table from hash to place that never makes its owner wait for long.

Python rebuilds a dictionary as a whole now and then, in one call: 6 ms at 100,000
entries, 60 ms at a million.  A table that has grown is therefore many dictionaries,
each of the hashes that end alike; a small one is a single dictionary, which is
quicker.  Hashes are uniform, so that their last bits serve.  Pure.
"""

from __future__ import annotations

from array import array
from itertools import chain, repeat

NOWHERE = -1

_SPLIT_AT = 8192
_LAST_BITS = 0x3F
"""Of so many dictionaries one is rebuilt in 1 ms where all of them hold a million entries."""


class BlockPlaces:
    """See the module's docstring."""

    def __init__(self, split_at: int = _SPLIT_AT) -> None:
        self._split_at = split_at
        self._whole: dict[int, int] = {}
        self._parts: list[dict[int, int]] = []
        """By last bits; empty while the table is whole."""

    def __len__(self) -> int:
        return sum(map(len, self._parts)) if self._parts else len(self._whole)

    def hashes(self) -> frozenset[int]:
        """Of all blocks."""
        return frozenset(chain(self._whole, *self._parts))

    def get(self, block_hash: int) -> int:
        """The block's place, or NOWHERE."""
        part = self._parts[block_hash & _LAST_BITS] if self._parts else self._whole
        return part.get(block_hash, NOWHERE)

    def put(self, hashes: array[int], place: int) -> int:
        """Give consecutive places to these up to the first that has one; how many got one."""
        first = place
        if self._parts:
            parts = self._parts
            for block_hash in hashes:
                part = parts[block_hash & _LAST_BITS]
                if block_hash in part:
                    break
                part[block_hash] = place
                place += 1
            return place - first
        whole = self._whole
        for block_hash in hashes:
            if block_hash in whole:
                break
            whole[block_hash] = place
            place += 1
        if len(whole) > self._split_at:
            self._split()
        return place - first

    def put_missing(self, hashes: array[int], place: int) -> bytearray:
        """Give each its place, from `place` on, if it has none; 1 for each that got it."""
        fresh = bytearray()
        for block_hash in hashes:
            part = self._parts[block_hash & _LAST_BITS] if self._parts else self._whole
            fresh.append(part.setdefault(block_hash, place) == place)
            place += 1
        return fresh

    def pop(self, hashes: array[int]) -> list[int]:
        """Forget these; the place of each, or NOWHERE."""
        if not self._parts:
            return list(map(self._whole.pop, hashes, repeat(NOWHERE)))
        parts = self._parts
        return [parts[block_hash & _LAST_BITS].pop(block_hash, NOWHERE) for block_hash in hashes]

    def _split(self) -> None:
        self._parts = [{} for _ in range(_LAST_BITS + 1)]
        for block_hash, place in self._whole.items():
            self._parts[block_hash & _LAST_BITS][block_hash] = place
        self._whole = {}
