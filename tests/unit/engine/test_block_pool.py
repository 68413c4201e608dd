from __future__ import annotations

from array import array
from dataclasses import replace

import pytest

from shepherd_events.block_hash import block_hashes, root_hash
from shepherd_events.events import (
    BlockHash,
    BlocksRemoved,
    BlocksStored,
    MediaKey,
    MediaSpan,
    Tier,
)
from shepherd_worker.engine.embedded.cache.block_pool import BlockPool, PoolCounts

ROOT = root_hash(b"model")
SIZE = 2


def run_of(tokens: list[int], start: int = 0, stop: int | None = None) -> BlocksStored:
    """What to store for blocks [start, stop) of a sequence."""
    hashes = list(block_hashes(ROOT, array("I", tokens), SIZE))[:stop]
    return BlocksStored(
        block_hashes=array("Q", hashes[start:]),
        parent_hash=hashes[start - 1] if start else None,
        token_ids=array("I", tokens[start * SIZE : len(hashes) * SIZE]),
        start_block=start,
    )


def cache(pool: BlockPool, tokens: list[int]) -> list[int]:
    """Let a sequence come and go."""
    blocks = pool.acquire((), len(tokens) // SIZE)
    assert blocks is not None
    blocks = pool.store(blocks, run_of(tokens))
    pool.release(blocks)
    return blocks


def places(pool: BlockPool, hashes: list[BlockHash]) -> list[int]:
    return [block.block_id for block in pool.match(hashes)]


def test_a_released_block_stays_findable_until_it_is_needed() -> None:
    pool = BlockPool(4, SIZE)
    blocks = cache(pool, [1, 2, 3, 4])
    hashes = list(block_hashes(ROOT, array("I", [1, 2, 3, 4]), SIZE))

    assert places(pool, hashes) == blocks
    assert pool.counts() == PoolCounts(empty=2, free=2, referenced=0)

    assert pool.acquire((), 3) is not None
    assert places(pool, hashes) == blocks[:1]


def test_the_leaf_goes_before_its_parent_and_the_oldest_chain_before_the_newest() -> None:
    pool = BlockPool(4, SIZE)
    cache(pool, [1, 1, 2, 2])
    cache(pool, [3, 3, 4, 4])
    pool.drain_events()
    pool.acquire((), 3)
    old = list(block_hashes(ROOT, array("I", [1, 1, 2, 2]), SIZE))
    new = list(block_hashes(ROOT, array("I", [3, 3, 4, 4]), SIZE))

    assert pool.drain_events() == (BlocksRemoved(array("Q", [old[1], old[0], new[1]])),)


def test_an_identical_block_is_kept_once_and_told_once() -> None:
    pool = BlockPool(4, SIZE)
    first = pool.acquire((), 1)
    second = pool.acquire((), 1)
    assert first is not None
    assert second is not None
    run = run_of([7, 8])

    assert pool.store(first, run) == first
    assert pool.store(second, run) == first
    assert pool.drain_events() == (run,)
    assert pool.counts() == PoolCounts(empty=3, free=0, referenced=1)


def test_a_known_block_splits_the_run_that_is_told() -> None:
    pool = BlockPool(8, SIZE)
    cache(pool, [1, 1, 2, 2])
    pool.drain_events()
    fresh = pool.acquire((), 4)
    assert fresh is not None
    tokens = [1, 1, 2, 2, 3, 3, 4, 4]
    pool.store(fresh, run_of(tokens))

    assert pool.drain_events() == (run_of(tokens, 2),)


def test_acquire_takes_all_or_nothing() -> None:
    pool = BlockPool(3, SIZE)
    cache(pool, [1, 1])
    matched = pool.match(block_hashes(ROOT, array("I", [1, 1]), SIZE))

    assert pool.acquire(matched, 3) is None
    assert pool.acquire(matched, 2, spare=1) is None
    assert pool.counts() == PoolCounts(empty=2, free=1, referenced=0)
    assert pool.acquire(matched, 2) is not None


def test_releasing_or_storing_what_is_not_held_changes_nothing() -> None:
    pool = BlockPool(2, SIZE)
    held = pool.acquire((), 1)
    assert held is not None
    other = 1 - held[0]

    with pytest.raises(ValueError, match=f"block {other}"):
        pool.release([*held, other])
    with pytest.raises(ValueError, match=f"block {other}"):
        pool.store([other], run_of([1, 1]))
    pool.check()
    assert pool.counts() == PoolCounts(empty=1, free=0, referenced=1)


def test_a_run_that_is_stored_in_parts_keeps_each_block_s_media() -> None:
    pool = BlockPool(8, 2)
    known = pool.acquire((), 1)
    assert known is not None
    pool.store(known, BlocksStored(array("Q", [12]), None, array("I", [0, 0]), 0))
    pool.drain_events()
    blocks = pool.acquire((), 3)
    assert blocks is not None
    first, second = MediaSpan(b"cat", 1, 1), MediaSpan(b"dog", 4, 2)
    keys = (MediaKey(0, first), MediaKey(1, first), MediaKey(2, first), MediaKey(2, second))

    pool.store(
        blocks, BlocksStored(array("Q", [11, 12, 13]), None, array("I", [0] * 6), 0, media=keys)
    )

    stored = [event for event in pool.drain_events() if isinstance(event, BlocksStored)]
    assert [(list(event.block_hashes), event.media) for event in stored] == [
        ([11], (MediaKey(0, first),)),
        ([13], (MediaKey(0, first), MediaKey(0, second))),
    ]


def test_a_chain_moves_as_one_run_that_is_stored_before_it_is_removed() -> None:
    pool = BlockPool(4, SIZE, num_host_blocks=6)
    tokens = [1, 1, 2, 2, 3, 3]
    cache(pool, tokens)
    pool.drain_events()
    run = run_of(tokens)
    on_host = replace(run, tier=Tier.HOST)
    leaf_first = array("Q", reversed(run.block_hashes))

    taken = pool.acquire((), 4)
    assert pool.drain_events() == (on_host, BlocksRemoved(leaf_first))
    assert [copy.to for copy in pool.drain_copies()] == [Tier.HOST] * 3

    assert taken is not None
    pool.release(taken)
    assert pool.acquire(pool.match([BlockHash(h) for h in run.block_hashes]), 1) is not None
    assert pool.drain_events() == (run, BlocksRemoved(run.block_hashes, Tier.HOST))
    assert [copy.to for copy in pool.drain_copies()] == [Tier.DEVICE] * 3
    assert pool.counts(Tier.HOST) == PoolCounts(empty=6, free=0, referenced=0)


def test_a_block_that_is_computed_again_leaves_the_host_without_a_copy() -> None:
    pool = BlockPool(2, SIZE, num_host_blocks=4)
    cache(pool, [1, 1])
    taken = pool.acquire((), 2)
    assert taken is not None
    pool.drain_events()
    pool.drain_copies()
    run = run_of([1, 1])

    assert pool.store(taken[:1], run) == taken[:1]
    assert pool.drain_events() == (run, BlocksRemoved(run.block_hashes, Tier.HOST))
    assert pool.drain_copies() == []
    pool.check()
