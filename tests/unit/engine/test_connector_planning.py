"""Which blocks are loaded, and which are saved."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from shepherd_events.events import BlockHash, BlocksRemoved, BlocksStored, CacheContext, Tier
from shepherd_worker.engine.connector.planning import plan_load, plan_save


def stored(*hashes: int, tier: Tier = Tier.DEVICE) -> BlocksStored:
    return BlocksStored(
        block_hashes=array("Q", hashes),
        parent_hash=None,
        token_ids=array("I", range(4 * len(hashes))),
        start_block=0,
        tier=tier,
        context=CacheContext(),
    )


@given(st.lists(st.booleans(), max_size=12), st.integers(0, 14), st.integers(0, 6))
def test_what_is_loaded_follows_the_cached_blocks_without_a_gap_and_within_the_limit(
    found: list[bool], num_cached: int, max_blocks: int
) -> None:
    plan = plan_load(found, num_cached=num_cached, max_blocks=max_blocks)

    assert plan.start == num_cached
    assert len(plan) <= max_blocks
    assert all(found[index] for index in plan)
    stops_early = plan.stop < len(found) and len(plan) < max_blocks
    assert not stops_early or not found[plan.stop]


def test_what_a_step_computed_is_saved_in_order() -> None:
    events = [stored(1, 2), BlocksRemoved(array("Q", [9]), Tier.DEVICE), stored(5)]
    plan = plan_save(events, loaded=frozenset(), max_blocks=10)

    assert (plan.hashes, plan.num_dropped) == ([1, 2, 5], 0)


def test_what_the_store_gave_or_the_host_held_is_not_saved_again() -> None:
    events = [
        stored(7, tier=Tier.HOST),
        stored(1, 2, 3, 4),
        BlocksRemoved(array("Q", [3]), Tier.HOST),
    ]
    plan = plan_save(events, loaded={BlockHash(1), BlockHash(2)}, max_blocks=10)

    assert (plan.hashes, plan.num_dropped) == ([4], 0)


def test_what_finds_no_room_is_dropped_from_the_end() -> None:
    for max_blocks, kept in ((2, [1, 2]), (0, []), (-1, [])):
        plan = plan_save([stored(1, 2, 3)], loaded=frozenset(), max_blocks=max_blocks)

        assert (plan.hashes, plan.num_dropped) == (kept, 3 - len(kept))
