"""Stored runs taken apart into blocks, and blocks put together as runs again.

A block is (the event that stored it, its index in it), so that nothing is
copied until it is told anew.  Pure.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace

from shepherd_events.events import BlockHash, BlocksStored, MediaKey

_MAX_RUN_BLOCKS = 256
"""Longest run, so that a page of runs stays near its size."""

StoredBlock = tuple[BlocksStored, int]


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


def runs_of(chain: Sequence[StoredBlock]) -> Iterator[BlocksStored]:
    """The chain, cut wherever one event could not say two blocks together."""
    start = 0
    for end in range(1, len(chain) + 1):
        full = end - start == _MAX_RUN_BLOCKS
        if end == len(chain) or full or not _joinable(chain[end - 1], chain[end]):
            yield _run(chain[start:end])
            start = end


def _joinable(left: StoredBlock, right: StoredBlock) -> bool:
    (before, index), (after, next_index) = left, right
    if before is after:
        return next_index == index + 1
    return (
        before.start_block + index + 1 == after.start_block + next_index
        and block_size_of(before) == block_size_of(after)
        and before.context == after.context
        and before.origin == after.origin
    )


def _run(chain: Sequence[StoredBlock]) -> BlocksStored:
    first, first_index = chain[0]
    block_hashes, token_ids = array("Q"), array("I")
    media: list[MediaKey] = []
    for event, index in chain:
        size = block_size_of(event)
        media += _media_of(event, index, index + 1, to=len(block_hashes))
        block_hashes.append(event.block_hashes[index])
        token_ids.extend(event.token_ids[index * size : (index + 1) * size])
    return replace(
        first,
        block_hashes=block_hashes,
        parent_hash=parent_of(first, first_index),
        token_ids=token_ids,
        start_block=first.start_block + first_index,
        media=tuple(media),
    )


def _media_of(run: BlocksStored, start: int, stop: int, *, to: int) -> tuple[MediaKey, ...]:
    """The media of a run's blocks [start, stop), which become blocks from `to` on."""
    return tuple(
        replace(key, block_index=key.block_index - start + to)
        for key in run.media
        if start <= key.block_index < stop
    )
