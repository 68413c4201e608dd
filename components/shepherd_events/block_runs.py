"""Stored runs taken apart into blocks, and blocks put together as runs again.

Blocks are parts of the events that stored them, so that nothing is copied until
it is told anew.  Pure.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from shepherd_events.events import BlockHash, BlocksStored, MediaKey

_MAX_RUN_BLOCKS = 256
"""Longest run, so that a page of runs stays near its size."""


class RunPart(NamedTuple):
    """Blocks [start, stop) of a run."""

    run: BlocksStored
    start: int
    stop: int

    @property
    def block_hashes(self) -> array[int]:
        """Of these blocks; the run's own array where these are all."""
        hashes = self.run.block_hashes
        return hashes if len(hashes) == self.stop - self.start else hashes[self.start : self.stop]


def parent_of(event: BlocksStored, index: int) -> BlockHash | None:
    """The hash of the block before; None at the root of a chain."""
    return BlockHash(event.block_hashes[index - 1]) if index else event.parent_hash


def block_size_of(event: BlocksStored) -> int:
    """Tokens per block; 0 in a hash-only run."""
    return len(event.token_ids) // len(event.block_hashes)


def part_of(run: BlocksStored, start: int, stop: int) -> BlocksStored:
    """The run of blocks [start, stop) of a run; the run itself where these are all."""
    if (start, stop) == (0, len(run.block_hashes)):
        return run
    size = block_size_of(run)
    return replace(
        run,
        block_hashes=run.block_hashes[start:stop],
        parent_hash=parent_of(run, start),
        token_ids=run.token_ids[start * size : stop * size],
        start_block=run.start_block + start,
        media=_media_of(run, start, stop, to=0),
    )


def runs_of(chain: Sequence[RunPart]) -> Iterator[BlocksStored]:
    """The chain, cut wherever one event could not say two blocks together."""
    joined: list[RunPart] = []
    num_joined = 0
    for part in _bounded(chain):
        length = part.stop - part.start
        full = num_joined + length > _MAX_RUN_BLOCKS
        if joined and (full or not _joinable(joined[-1], part)):
            yield _run(joined)
            joined, num_joined = [], 0
        joined.append(part)
        num_joined += length
    if joined:
        yield _run(joined)


def _bounded(chain: Iterable[RunPart]) -> Iterator[RunPart]:
    """The same blocks in parts that are not too long for a run."""
    for run, start, stop in chain:
        for at in range(start, stop, _MAX_RUN_BLOCKS):
            yield RunPart(run, at, min(stop, at + _MAX_RUN_BLOCKS))


def _joinable(left: RunPart, right: RunPart) -> bool:
    before, after = left.run, right.run
    if before is after:
        return left.stop == right.start
    return (
        before.block_hashes[left.stop - 1] == parent_of(after, right.start)
        and before.start_block + left.stop == after.start_block + right.start
        and block_size_of(before) == block_size_of(after)
        and before.context == after.context
        and before.origin == after.origin
    )


def _run(parts: Sequence[RunPart]) -> BlocksStored:
    first = parts[0]
    if len(parts) == 1:
        return part_of(*first)
    size = block_size_of(first.run)
    block_hashes, token_ids = array("Q"), array("I")
    media: list[MediaKey] = []
    for run, start, stop in parts:
        media += _media_of(run, start, stop, to=len(block_hashes))
        block_hashes.extend(run.block_hashes[start:stop])
        token_ids.extend(run.token_ids[start * size : stop * size])
    return replace(
        first.run,
        block_hashes=block_hashes,
        parent_hash=parent_of(first.run, first.start),
        token_ids=token_ids,
        start_block=first.run.start_block + first.start,
        media=tuple(media),
    )


def _media_of(run: BlocksStored, start: int, stop: int, *, to: int) -> tuple[MediaKey, ...]:
    """The media of a run's blocks [start, stop), which become blocks from `to` on."""
    return tuple(
        replace(key, block_index=key.block_index - start + to)
        for key in run.media
        if start <= key.block_index < stop
    )
