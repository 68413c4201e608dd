from __future__ import annotations

from array import array
from functools import reduce
from operator import xor

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shepherd_events.events import (
    Attribution,
    BlockHash,
    BlocksCleared,
    BlocksRemoved,
    BlocksReused,
    BlocksStored,
    CacheContext,
    Tier,
    TierState,
)
from shepherd_events.resident_set import ResidentBlock, ResidentSet


def stored(
    *hashes: int, parent: int | None = None, start: int = 0, tier: Tier = Tier.DEVICE
) -> BlocksStored:
    """A run of blocks of two tokens; a block's tokens are made of its hash."""
    tokens = array("I", [token for h in hashes for token in (h, h + 1)])
    parent_hash = None if parent is None else BlockHash(parent)
    return BlocksStored(array("Q", hashes), parent_hash, tokens, start, tier)


def test_a_stored_block_tells_its_place_and_tokens() -> None:
    residents = ResidentSet([stored(10, 11, parent=9, start=3)])

    assert residents.block(BlockHash(11)) == ResidentBlock(
        block_hash=BlockHash(11),
        parent_hash=BlockHash(10),
        token_ids=array("I", [11, 12]),
        position=4,
        context=CacheContext(),
        origin=None,
    )
    assert residents.block(BlockHash(10), Tier.HOST) is None
    assert residents.block(BlockHash(9)) is None


def test_tiers_and_groups_hold_apart() -> None:
    residents = ResidentSet([stored(1), stored(1, tier=Tier.HOST)])

    residents.apply(BlocksRemoved(array("Q", [1]), Tier.DEVICE))
    residents.apply(BlocksRemoved(array("Q", [1]), Tier.HOST, group=1))

    assert residents.hashes() == frozenset()
    assert residents.hashes(Tier.HOST) == {1}


def test_storing_twice_and_removing_what_is_not_there_change_nothing() -> None:
    residents = ResidentSet([stored(1, 2), stored(2, 1)])
    residents.apply(BlocksRemoved(array("Q", [7])))
    residents.apply(BlocksReused(array("Q", [8]), None, 0))

    assert residents.digest() == (TierState(Tier.DEVICE, 2, 1 ^ 2),)


def test_one_tier_or_all_are_cleared() -> None:
    residents = ResidentSet([stored(1), stored(2, tier=Tier.HOST), stored(3, tier=Tier.DISK)])

    residents.apply(BlocksCleared(Tier.HOST))
    assert residents.digest() == (TierState(Tier.DEVICE, 1, 1), TierState(Tier.DISK, 1, 3))

    residents.apply(BlocksCleared())
    assert residents.digest() == ()
    assert len(residents) == 0


def test_runs_of_one_chain_are_joined_in_a_snapshot() -> None:
    residents = ResidentSet([stored(1, 2), stored(3, parent=2, start=2)])

    assert list(residents.snapshot()) == [stored(1, 2, 3)]


def test_a_run_ends_where_the_origin_changes() -> None:
    first = stored(1, 2)
    second = BlocksStored(
        array("Q", [3]), BlockHash(2), array("I", [3, 4]), 2, origin=Attribution("r2")
    )

    assert list(ResidentSet([first, second]).snapshot()) == [first, second]


def test_a_parent_that_was_stored_again_still_comes_before_its_child() -> None:
    residents = ResidentSet([stored(1, 2, 3)])
    residents.apply(BlocksRemoved(array("Q", [1])))
    residents.apply(stored(1))

    assert list(residents.snapshot()) == [stored(1), stored(2, 3, parent=1, start=1)]


def test_a_hole_in_a_chain_splits_it() -> None:
    residents = ResidentSet([stored(1, 2, 3)])
    residents.apply(BlocksRemoved(array("Q", [2])))

    assert sorted(residents.snapshot(), key=lambda run: run.start_block) == [
        stored(1),
        stored(3, parent=2, start=2),
    ]


def test_long_chains_are_cut_into_runs_of_bounded_length() -> None:
    chain = stored(*range(1, 1001))

    runs = list(ResidentSet([chain]).snapshot())

    assert [len(run.block_hashes) for run in runs] == [256, 256, 256, 232]
    assert [run.parent_hash for run in runs] == [None, 256, 512, 768]
    assert ResidentSet(runs).digest() == ResidentSet([chain]).digest()


def test_a_view_does_not_follow_the_set() -> None:
    residents = ResidentSet([stored(1, 2, 3), stored(4, parent=3, start=3)])
    view = residents.view()

    residents.apply(BlocksRemoved(array("Q", [2, 4])))
    residents.apply(stored(5, parent=3, start=3))
    residents.apply(stored(2, parent=1, start=1))
    residents.apply(BlocksCleared())

    assert list(view.snapshot()) == [stored(1, 2, 3, 4)]
    assert view.digest() == (TierState(Tier.DEVICE, 4, 1 ^ 2 ^ 3 ^ 4),)


def test_a_run_that_names_a_block_twice_holds_it_once() -> None:
    residents = ResidentSet([stored(1, 2, 1)])

    assert residents.digest() == (TierState(Tier.DEVICE, 2, 1 ^ 2),)
    residents.apply(BlocksRemoved(array("Q", [1, 1])))
    assert list(residents.snapshot()) == [stored(2, parent=1, start=1)]


def test_blocks_that_claim_each_other_as_parents_end_the_walk() -> None:
    residents = ResidentSet([stored(1, parent=2), stored(2, parent=1)])

    assert ResidentSet(residents.snapshot()).hashes() == {1, 2}


class ResidentSetMachine(RuleBasedStateMachine):
    """The set against plain dictionaries of what is where."""

    def __init__(self) -> None:
        super().__init__()
        self.residents = ResidentSet()
        self.model: dict[tuple[Tier, int], dict[int, int | None]] = {}

    @rule(
        tier=st.sampled_from([Tier.DEVICE, Tier.HOST]),
        group=st.integers(0, 1),
        start=st.integers(1, 12),
        length=st.integers(1, 5),
    )
    def store(self, tier: Tier, group: int, start: int, length: int) -> None:
        parent = BlockHash(start - 1) if start > 1 else None
        hashes = range(start, start + length)
        tokens = array("I", [token for h in hashes for token in (h, h)])
        self.residents.apply(
            BlocksStored(array("Q", hashes), parent, tokens, start - 1, tier, group=group)
        )
        held = self.model.setdefault((tier, group), {})
        for block_hash in hashes:
            held.setdefault(block_hash, block_hash - 1 or None)

    @rule(
        tier=st.sampled_from([Tier.DEVICE, Tier.HOST]),
        group=st.integers(0, 1),
        hashes=st.lists(st.integers(1, 16), max_size=6),
    )
    def remove(self, tier: Tier, group: int, hashes: list[int]) -> None:
        self.residents.apply(BlocksRemoved(array("Q", hashes), tier, group=group))
        for block_hash in hashes:
            self.model.get((tier, group), {}).pop(block_hash, None)

    @rule(tier=st.sampled_from([None, Tier.DEVICE, Tier.HOST]))
    def clear(self, tier: Tier | None) -> None:
        self.residents.apply(BlocksCleared(tier))
        for key in list(self.model):
            if tier in (None, key[0]):
                del self.model[key]

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        for tier in (Tier.DEVICE, Tier.HOST):
            both = []
            for group in (0, 1):
                held = self.model.get((tier, group), {})
                assert self.residents.hashes(tier, group=group) == held.keys()
                both.extend(held)
            digest = [state for state in self.residents.digest() if state.tier == tier]
            expected = [TierState(tier, len(both), reduce(xor, both, 0))] if both else []
            assert digest == expected

    @invariant()
    def a_snapshot_rebuilds_it_with_parents_first(self) -> None:
        rebuilt = ResidentSet()
        for run in self.residents.snapshot():
            held = self.model[run.tier, run.group]
            if run.parent_hash in held:
                assert rebuilt.block(run.parent_hash, run.tier, group=run.group) is not None
            rebuilt.apply(run)
        assert rebuilt.digest() == self.residents.digest()
        for (tier, group), held in self.model.items():
            for block_hash in map(BlockHash, held):
                block = rebuilt.block(block_hash, tier, group=group)
                assert block == self.residents.block(block_hash, tier, group=group)
                assert block is not None
                assert block.position == block_hash - 1
                assert block.token_ids == array("I", [block_hash, block_hash])


TestResidentSet = ResidentSetMachine.TestCase
TestResidentSet.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


@given(st.lists(st.integers(1, 30), unique=True, min_size=1))
def test_the_digest_does_not_depend_on_the_order_of_events(hashes: list[int]) -> None:
    forwards = ResidentSet(stored(h) for h in hashes)
    backwards = ResidentSet(stored(h) for h in reversed(hashes))

    assert forwards.digest() == backwards.digest()
