"""The order in which idle leaves go, and what the pool holds a policy to."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shepherd_events.block_hash import block_hashes, root_hash
from shepherd_events.events import Attribution, BlockHash, BlocksStored, Tier
from shepherd_worker.engine.embedded.cache.block_pool import BlockPool
from shepherd_worker.engine.embedded.cache.eviction import Evictable, PriorityLru
from shepherd_worker.engine.embedded.cache.retention import BlockRetention, block_retention
from shepherd_worker.request import Retention, RetentionRange

ROOT = root_hash(b"model")
SIZE = 2


def evictable(block_hash: int, priority: int, use_order: int) -> Evictable:
    return Evictable(
        block_hash=BlockHash(block_hash),
        tier=Tier.DEVICE,
        block_id=0,
        priority=priority,
        position=0,
        stored_by=None,
        used_by=None,
        used_at_s=0.0,
        use_order=use_order,
    )


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=300))
def test_the_default_is_lowest_priority_then_least_recently_used(
    calls: list[tuple[bool, int]],
) -> None:
    policy, model = PriorityLru(), dict[int, tuple[int, int]]()
    for order, (adds, priority) in enumerate(calls):
        if adds or not model:
            policy.add(evictable(order, priority, order))
            model[order] = (priority, order)
        elif priority:
            removed = min(model)
            policy.remove(BlockHash(removed))
            del model[removed]
        else:
            first = min(model, key=model.__getitem__)
            assert policy.pop() == first
            del model[first]
    expected = sorted(model, key=model.__getitem__)

    assert [policy.pop() for _ in model] == expected


def test_blocks_that_come_and_go_leave_nothing_behind() -> None:
    policy = PriorityLru()
    for order in range(5000):
        policy.add(evictable(1, 35, order))
        policy.remove(BlockHash(1))

    assert len(policy._heap) <= 64


def cache(
    pool: BlockPool, tokens: list[int], session: str = "", retention: BlockRetention | None = None
) -> None:
    """Let a sequence come and go."""
    hashes = list(block_hashes(ROOT, array("I", tokens), SIZE))
    origin = Attribution("r", session)
    matched = pool.match(hashes)
    blocks = pool.acquire(matched, len(hashes) - len(matched), origin=origin)
    assert blocks is not None
    start = len(matched)
    run = BlocksStored(
        block_hashes=array("Q", hashes[start:]),
        parent_hash=hashes[start - 1] if start else None,
        token_ids=array("I", tokens[start * SIZE :]),
        start_block=start,
        origin=origin,
    )
    blocks[start:] = pool.store(blocks[start:], run)
    pool.retain(blocks, [retention] * len(blocks))
    pool.release(blocks)


def is_cached(pool: BlockPool, tokens: list[int]) -> bool:
    hashes = list(block_hashes(ROOT, array("I", tokens), SIZE))
    return len(pool.match(hashes)) == len(hashes)


def test_a_block_of_high_priority_keeps_its_parents() -> None:
    pool = BlockPool(4, SIZE)
    cache(pool, [1, 1], retention=BlockRetention(0, None))
    cache(pool, [1, 1, 2, 2])
    cache(pool, [5, 5, 6, 6], retention=BlockRetention(20, None))
    cache(pool, [7, 7, 8, 8], retention=BlockRetention(100, None))

    assert is_cached(pool, [1, 1, 2, 2])
    assert not is_cached(pool, [5, 5])


def test_a_priority_ends_when_its_duration_is_over_since_the_last_use() -> None:
    pool = BlockPool(2, SIZE)
    pinned = BlockRetention(100, 10.0)
    cache(pool, [1, 1], retention=pinned)
    pool.tick(6.0)
    cache(pool, [1, 1])
    pool.tick(15.9)
    cache(pool, [2, 2])
    cache(pool, [3, 3])
    assert is_cached(pool, [1, 1])

    pool.tick(16.0)
    cache(pool, [4, 4])
    assert not is_cached(pool, [1, 1])


def test_a_low_priority_ends_as_well() -> None:
    pool = BlockPool(3, SIZE)
    cache(pool, [9, 9])
    cache(pool, [1, 1], retention=BlockRetention(0, 5.0))
    pool.tick(5.0)
    cache(pool, [2, 2])
    cache(pool, [3, 3])

    assert is_cached(pool, [1, 1])
    assert not is_cached(pool, [9, 9])


def test_a_block_in_use_does_not_lose_its_priority() -> None:
    pool = BlockPool(2, SIZE)
    cache(pool, [1, 1], retention=BlockRetention(100, 5.0))
    hashes = list(block_hashes(ROOT, array("I", [1, 1]), SIZE))
    held = pool.acquire(pool.match(hashes), 0)
    assert held is not None
    pool.tick(50.0)
    pool.release(held)
    pool.tick(54.9)
    cache(pool, [2, 2])
    cache(pool, [3, 3])

    assert is_cached(pool, [1, 1])


def hashes_of(*tokens: int) -> set[BlockHash]:
    return {
        hash_ for token in tokens for hash_ in block_hashes(ROOT, array("I", [token] * 2), SIZE)
    }


def test_the_host_tier_keeps_what_is_worth_more_than_what_comes() -> None:
    pool = BlockPool(2, SIZE, num_host_blocks=3)
    for token in (1, 2):
        cache(pool, [token] * 2, retention=BlockRetention(100, None))
    for token in (3, 4, 5, 6):
        cache(pool, [token] * 2)

    assert pool.resident(Tier.DEVICE) == hashes_of(2, 6)
    assert pool.resident(Tier.HOST) == hashes_of(1, 5)
    assert pool.num_evicted_total == 2


class Recorder(PriorityLru):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Evictable] = []

    def add(self, block: Evictable) -> None:
        self.seen.append(block)
        super().add(block)


def test_a_policy_sees_whose_block_it_was_and_whose_it_is() -> None:
    policies: list[Recorder] = []

    def factory() -> Recorder:
        policies.append(Recorder())
        return policies[-1]

    pool = BlockPool(4, SIZE, policy=factory)
    pool.tick(3.0)
    cache(pool, [1, 1, 2, 2], "first")
    pool.tick(4.0)
    cache(pool, [1, 1, 2, 2], "second", BlockRetention(70, None))
    first, second = policies[0].seen

    assert len(policies) == 2
    assert (first.position, first.priority, first.used_at_s) == (1, 35, 3.0)
    assert (second.position, second.priority, second.used_at_s) == (1, 70, 4.0)
    assert first.stored_by == first.used_by == second.stored_by == Attribution("r", "first")
    assert second.used_by == Attribution("r", "second")
    assert second.use_order > first.use_order


class Liar(PriorityLru):
    def pop(self) -> BlockHash:
        super().pop()
        return BlockHash(7)


def test_a_policy_that_chooses_what_is_not_on_offer_is_told_so() -> None:
    pool = BlockPool(1, SIZE, policy=Liar)
    cache(pool, [1, 1])

    with pytest.raises(RuntimeError, match="chose 7, which is not on offer"):
        pool.acquire((), 1)


def test_a_block_takes_the_highest_priority_that_covers_one_of_its_tokens() -> None:
    retention = Retention(
        ranges=(
            RetentionRange(start=0, stop=5, priority=100, duration_s=9.0),
            RetentionRange(start=4, stop=8, priority=50),
            RetentionRange(start=4, stop=6, priority=100, duration_s=3.0),
        ),
        decode_priority=10,
        decode_duration_s=1.0,
    )

    def of(start: int) -> BlockRetention | None:
        return block_retention(retention, 14, start, start + 4)

    assert of(0) == BlockRetention(100, 9.0)
    assert of(4) == BlockRetention(100, 9.0)
    assert of(8) is None
    assert of(12) == of(16) == BlockRetention(10, 1.0)


def test_an_open_range_ends_with_the_prompt() -> None:
    retention = Retention(ranges=(RetentionRange(start=2, stop=None, priority=80),))

    assert block_retention(retention, 8, 0, 2) is None
    assert block_retention(retention, 8, 6, 8) == BlockRetention(80, None)
    assert block_retention(retention, 8, 8, 10) == BlockRetention(35, None)
    assert block_retention(Retention(), 8, 0, 8) is None


def test_blocks_that_are_gone_do_not_wait_for_their_deadlines() -> None:
    pool = BlockPool(2, SIZE)
    for token in range(2000):
        cache(pool, [token, token], retention=BlockRetention(50, 1e9))

    assert len(pool._deadlines._heap) <= 130
    pool.tick(2e9)
    pool.check()
