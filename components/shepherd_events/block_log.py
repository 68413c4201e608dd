"""The blocks of one tier and group, in the order in which they were stored.

    places     hash -> segment number << 32 | offset (`block_places.py`)
    segment    live  1 1 1 0 1 1 0 ...     one byte per block that was ever stored in it
               runs  |E1   |E2 |E3 ...     the events, each at the offset of its first block

Only `live` ever changes where something was written, so a moment is kept by
copying a byte per block, and what is done to the log afterwards cannot be seen in
a view.  Runs whose blocks are all gone are let go whenever a quarter of their
segment's blocks left since the last look.

Storing what is held and removing what is not change nothing.  Pure; not safe
for threads, except that views may be read while the log changes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import compress, islice
from typing import NamedTuple

import numpy as np

from shepherd_events.block_places import NOWHERE, BlockPlaces
from shepherd_events.block_runs import RunPart, parent_of
from shepherd_events.events import BlockHash, BlocksStored

_SEGMENT_BLOCKS = 4096
"""A segment takes whole runs until it has as many."""

_OFFSET_BITS = 32
_OFFSET_MASK = (1 << _OFFSET_BITS) - 1
_UNFOLDED_HASHES = 4096
_PARTS_BETWEEN_BREATHS = 256


@dataclass(slots=True)
class _Segment:
    """Consecutive runs, and which of their blocks are held."""

    runs: list[BlocksStored | None] = field(default_factory=list)
    """Appended to, never written; None where a run was let go."""
    firsts: list[int] = field(default_factory=list)
    """Offset of the first block of each run; only appended to."""
    live: bytearray = field(default_factory=bytearray)
    num_gone: int = 0
    """Blocks that are not live."""
    num_swept: int = 0
    """Of those, the ones that the last sweep knew of."""

    def sweep(self) -> None:
        """Let go of the runs without a live block; who reads the old list keeps it."""
        ends = (*self.firsts[1:], len(self.live))
        self.runs = [
            run if self.live.find(1, first, end) >= 0 else None
            for run, first, end in zip(self.runs, self.firsts, ends, strict=True)
        ]
        self.num_swept = self.num_gone


class BlockLog:
    """See the module's docstring."""

    def __init__(
        self, segment_blocks: int = _SEGMENT_BLOCKS, places: BlockPlaces | None = None
    ) -> None:
        self._segment_blocks = segment_blocks
        self._places = BlockPlaces() if places is None else places
        self._tail = _Segment()
        self._tail_number = 0
        self._segments = {0: self._tail}
        self._xor = 0
        self._unfolded = array("Q")
        """Hashes that came or went and are not in `_xor` yet."""

    def __len__(self) -> int:
        return len(self._places)

    def hashes(self) -> frozenset[int]:
        """Of all blocks."""
        return self._places.hashes()

    @property
    def xor(self) -> int:
        """Exclusive or of all hashes, 0 when there is none."""
        self._fold_hashes()
        return self._xor

    def add(self, run: BlocksStored) -> None:
        """Hold the blocks of a run that are not held already; keeps a reference to it."""
        tail, hashes = self._tail, run.block_hashes
        first = len(tail.live)
        if first >= self._segment_blocks:
            tail, first = self._begin_segment(), 0
        place = self._tail_number << _OFFSET_BITS | first
        count = self._places.put(hashes, place)
        fresh = b"\1" * count
        if count < len(hashes):
            fresh += self._places.put_missing(hashes[count:], place + count)
            hashes = array("Q", compress(hashes, fresh))
            if not hashes:
                return
            tail.num_gone += len(fresh) - len(hashes)
        tail.live += fresh
        tail.runs.append(run)
        tail.firsts.append(first)
        self._unfolded.extend(hashes)

    def remove(self, hashes: array[int]) -> None:
        """Hold none of these."""
        places = self._places.pop(hashes)
        first = min(places, default=NOWHERE)
        if first == NOWHERE:
            hashes = array("Q", compress(hashes, map(NOWHERE.__ne__, places)))
            places = [place for place in places if place != NOWHERE]
            if not places:
                return
            first = min(places)
        self._unfolded.extend(hashes)
        if len(self._unfolded) >= _UNFOLDED_HASHES:
            self._fold_hashes()
        if max(places) - first == len(places) - 1:
            self._forget(first, len(places))
        else:
            for place in places:
                self._forget(place, 1)

    def find(self, block_hash: int) -> tuple[BlocksStored, int] | None:
        """The run that brought a block, and the block's index in it."""
        place = self._places.get(block_hash)
        if place == NOWHERE:
            return None
        segment, offset = self._segments[place >> _OFFSET_BITS], place & _OFFSET_MASK
        at = bisect_right(segment.firsts, offset) - 1
        run = segment.runs[at]
        assert run is not None, "a run with a live block is never let go"
        return run, offset - segment.firsts[at]

    def view(self) -> BlockView:
        """What is held now; costs a copy of one byte per block."""
        return BlockView(
            [
                _Moment(segment.runs, segment.firsts, len(segment.runs), bytes(segment.live))
                for segment in self._segments.values()
            ]
        )

    def _fold_hashes(self) -> None:
        self._xor ^= int(np.bitwise_xor.reduce(np.asarray(self._unfolded)))
        self._unfolded = array("Q")

    def _forget(self, place: int, count: int) -> None:
        """`count` places from `place` on are live, and are no more."""
        number, offset = place >> _OFFSET_BITS, place & _OFFSET_MASK
        segment = self._segments[number]
        segment.live[offset : offset + count] = bytes(count)
        segment.num_gone += count
        if segment.num_gone == len(segment.live):
            del self._segments[number]
            if segment is self._tail:
                self._begin_segment()
        elif (segment.num_gone - segment.num_swept) * 4 >= len(segment.live):
            segment.sweep()

    def _begin_segment(self) -> _Segment:
        if len(self._unfolded) >= _UNFOLDED_HASHES:
            self._fold_hashes()
        self._tail_number += 1
        self._segments[self._tail_number] = self._tail = tail = _Segment()
        return tail


class _Moment(NamedTuple):
    """A segment as it was; the lists may have grown, what is beyond `num_runs` is younger."""

    runs: list[BlocksStored | None]
    firsts: list[int]
    num_runs: int
    live: bytes


class BlockView:
    """The blocks of a log at one moment; may be read in any thread, for as long as one likes."""

    def __init__(self, moments: list[_Moment]) -> None:
        self._moments = moments

    def parts(self) -> Iterator[RunPart]:
        """Every block once, as parts of the runs that brought them, oldest first."""
        for moment, run, start, stop in self._places():
            yield _part(self._moments[moment], run, start, stop)

    def _places(self) -> Iterator[tuple[int, int, int, int]]:
        """Of each part: the number of its moment, of its run there, and the blocks of the run."""
        for number, (runs, firsts, num_runs, live) in enumerate(self._moments):
            for at, first in enumerate(islice(firsts, num_runs)):
                run = runs[at]
                if run is None:
                    continue
                end = first + len(run.block_hashes)
                start = live.find(1, first, end)
                while start >= 0:
                    gap = live.find(0, start, end)
                    stop = end if gap < 0 else gap
                    yield number, at, start - first, stop - first
                    start = live.find(1, stop, end)

    def chains(self, breathe: Callable[[], object] = lambda: None) -> Iterator[list[RunPart]]:
        """Every block once, in chains of parent and child, parents before children.

        The newest parts are mostly leaves: walking up from them finds long chains.
        `breathe` is called now and then, so that a busy thread can let others work.
        """
        parts = _Parts(self._moments)
        for place in self._places():
            parts.append(*place)
            if len(parts) % _PARTS_BETWEEN_BREATHS == 0:
                breathe()
        holders = parts.holders_of_parents(breathe)
        taken = bytearray(len(parts))
        for leaf in reversed(range(len(parts))):
            chain = []
            number = leaf
            while number >= 0 and not taken[number]:
                taken[number] = 1
                chain.append(parts[number])
                parent = parts.parent(number)
                number = NOWHERE if parent is None else holders.pop(parent, NOWHERE)
            if chain:
                yield chain[::-1]


class _Parts:
    """Parts of runs as columns of numbers.

    A list of a million objects would be walked by the garbage collector while it is
    young, and hold every thread up for milliseconds.
    """

    def __init__(self, moments: list[_Moment]) -> None:
        self._all = moments
        self._moments, self._runs = array("I"), array("I")
        self._starts, self._stops = array("I"), array("I")

    def append(self, moment: int, run: int, start: int, stop: int) -> None:
        self._moments.append(moment)
        self._runs.append(run)
        self._starts.append(start)
        self._stops.append(stop)

    def __len__(self) -> int:
        return len(self._runs)

    def __getitem__(self, number: int) -> RunPart:
        moment = self._all[self._moments[number]]
        return _part(moment, self._runs[number], self._starts[number], self._stops[number])

    def parent(self, number: int) -> BlockHash | None:
        part = self[number]
        return parent_of(part.run, part.start)

    def holders_of_parents(self, breathe: Callable[[], object]) -> dict[int, int]:
        """For every block that is some part's parent: the number of the part that holds it.

        A dictionary of numbers alone is none of the garbage collector's business.
        """
        holders: dict[int, int] = {}
        for number in range(len(self)):
            parent = self.parent(number)
            if parent is not None:
                holders[parent] = NOWHERE
            if number % _PARTS_BETWEEN_BREATHS == 0:
                breathe()
        for number in range(len(self)):
            for block_hash in holders.keys() & self[number].block_hashes:
                holders[block_hash] = number
            if number % _PARTS_BETWEEN_BREATHS == 0:
                breathe()
        return holders


def _part(moment: _Moment, run: int, start: int, stop: int) -> RunPart:
    brought_by = moment.runs[run]
    assert brought_by is not None, "a run with a live block is never let go"
    return RunPart(brought_by, start, stop)
