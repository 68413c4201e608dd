"""The block index against a naive model, and its exact answers."""

from __future__ import annotations

from array import array
from itertools import product

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shepherd_events.events import BlockHash, BlocksStored, StreamId, Tier
from shepherd_memory.block_index import BlockIndex, validate_run

W1, W2 = StreamId("w1"), StreamId("w2")
STREAMS = (W1, W2, StreamId("w1", 1))
TIERS = (Tier.DEVICE, Tier.HOST)
HASHES = range(1, 9)


def run(
    *hashes: int, parent: int | None = None, tier: Tier = Tier.DEVICE, tokens: bool = True
) -> BlocksStored:
    token_ids = array("I", [token for each in hashes for token in (each * 10, each * 10 + 1)])
    return BlocksStored(
        block_hashes=array("Q", hashes),
        parent_hash=None if parent is None else BlockHash(parent),
        token_ids=token_ids if tokens else array("I"),
        start_block=0,
        tier=tier,
    )


def test_a_block_is_gone_when_its_last_holder_lets_go() -> None:
    index = BlockIndex()

    assert index.stored(W1, run(1, 2)) == [1, 2]
    assert index.stored(W2, run(2)) == []
    assert index.removed(W1, Tier.DEVICE, [1, 2]) == [1]
    assert index.holders(2) == {(W2, Tier.DEVICE)}
    assert index.forget(W2) == [2]
    assert len(index) == 0


def test_a_move_to_the_host_tier_keeps_a_block() -> None:
    index = BlockIndex()
    index.stored(W1, run(1))

    index.stored(W1, run(1, tier=Tier.HOST, tokens=False))

    assert index.removed(W1, Tier.DEVICE, [1]) == []
    assert index.chain(BlockHash(1)).token_ids == array("I", [10, 11])
    assert index.cleared(W1, None) == [1]


def test_removing_what_is_not_held_changes_nothing() -> None:
    index = BlockIndex()
    index.stored(W1, run(1))

    assert index.removed(W2, Tier.DEVICE, [1]) == []
    assert index.removed(W1, Tier.HOST, [1]) == []
    assert index.removed(W1, Tier.DEVICE, [7]) == []
    assert 1 in index


def test_a_chain_is_walked_back_to_its_root() -> None:
    index = BlockIndex()
    index.stored(W1, run(1, 2))
    index.stored(W1, run(3, parent=2))

    chain = index.chain(BlockHash(3))

    assert list(chain.block_hashes) == [1, 2, 3]
    assert list(chain.token_ids) == [10, 11, 20, 21, 30, 31]
    assert (chain.block_size, chain.complete) == (2, True)


@pytest.mark.parametrize("hole", ["gone", "without tokens"])
def test_a_chain_with_a_hole_is_its_end_and_says_so(hole: str) -> None:
    index = BlockIndex()
    index.stored(W1, run(1, tokens=hole != "without tokens"))
    index.stored(W1, run(2, 3, parent=1))
    if hole == "gone":
        index.removed(W1, Tier.DEVICE, [1])

    chain = index.chain(BlockHash(3))

    assert list(chain.block_hashes) == [2, 3]
    assert not chain.complete


def test_no_last_block_is_an_empty_complete_chain() -> None:
    chain = BlockIndex().chain(None)

    assert (list(chain.block_hashes), chain.block_size, chain.complete) == ([], 0, True)


def test_tokens_that_come_later_are_taken() -> None:
    index = BlockIndex()
    index.stored(W1, run(1, tokens=False))
    assert not index.chain(BlockHash(1)).complete

    index.stored(W2, run(1))

    assert index.chain(BlockHash(1)).complete


def test_a_snapshot_replaces_one_stream_and_keeps_known_tokens() -> None:
    index = BlockIndex()
    index.stored(W1, run(1, 2, 3))
    index.stored(W2, run(3))

    gone = index.replace(W1, [run(1, tokens=False), run(4, parent=1)])

    assert gone == [2]
    assert index.holders(3) == {(W2, Tier.DEVICE)}
    assert list(index.chain(BlockHash(4)).token_ids) == [10, 11, 40, 41]
    index.check()


def test_tokens_that_do_not_divide_are_refused_before_anything_changes() -> None:
    index = BlockIndex()
    wrong = BlocksStored(array("Q", [1, 2]), None, array("I", [1, 2, 3]), 0)

    with pytest.raises(ValueError, match="3 tokens do not divide into 2 blocks"):
        index.stored(W1, wrong)
    with pytest.raises(ValueError, match="3 tokens do not divide into 2 blocks"):
        validate_run(wrong)
    assert len(index) == 0


def test_a_left_streams_place_is_used_again() -> None:
    index = BlockIndex()
    for number in range(1000):
        stream = StreamId(f"w{number}")
        index.stored(stream, run(1))
        index.forget(stream)

    index.stored(W1, run(1))

    record = index.record(BlockHash(1))
    assert record is not None
    assert record.holders == {(W1, Tier.DEVICE)}
    assert len(index._counts) == 1


def test_touched_names_what_differs_from_the_last_copy() -> None:
    index = BlockIndex()
    index.stored(W1, run(1, 2))
    assert index.take_touched() == {1, 2}

    index.stored(W1, run(1))
    assert index.take_touched() == set()

    index.removed(W1, Tier.DEVICE, [2])
    assert index.take_touched() == {2}
    assert index.record(BlockHash(2)) is None


class IndexMachine(RuleBasedStateMachine):
    """The index holds what a set of (hash, stream, tier) holds."""

    def __init__(self) -> None:
        super().__init__()
        self.index = BlockIndex()
        self.copy = BlockIndex()
        self.model: set[tuple[int, StreamId, Tier]] = set()

    def hashes(self) -> set[int]:
        return {block_hash for block_hash, _, _ in self.model}

    @rule(
        stream=st.sampled_from(STREAMS),
        tier=st.sampled_from(TIERS),
        hashes=st.lists(st.sampled_from(HASHES), unique=True, min_size=1),
        tokens=st.booleans(),
    )
    def stored(self, stream: StreamId, tier: Tier, hashes: list[int], tokens: bool) -> None:
        before = self.hashes()

        appeared = self.index.stored(stream, run(*hashes, tier=tier, tokens=tokens))

        self.model |= {(each, stream, tier) for each in hashes}
        assert set(appeared) == self.hashes() - before

    @rule(
        stream=st.sampled_from(STREAMS),
        tier=st.sampled_from(TIERS),
        hashes=st.lists(st.sampled_from(HASHES)),
    )
    def removed(self, stream: StreamId, tier: Tier, hashes: list[int]) -> None:
        before = self.hashes()

        gone = self.index.removed(stream, tier, hashes)

        self.model -= {(each, stream, tier) for each in hashes}
        assert set(gone) == before - self.hashes()

    @rule(stream=st.sampled_from(STREAMS), tier=st.sampled_from((*TIERS, None)))
    def cleared(self, stream: StreamId, tier: Tier | None) -> None:
        before = self.hashes()

        gone = self.index.cleared(stream, tier)

        self.model = {
            each for each in self.model if each[1] != stream or tier not in {None, each[2]}
        }
        assert sorted(gone) == sorted(before - self.hashes())

    @rule(stream=st.sampled_from(STREAMS))
    def forget(self, stream: StreamId) -> None:
        before = self.hashes()

        gone = self.index.forget(stream)

        self.model = {each for each in self.model if each[1] != stream}
        assert sorted(gone) == sorted(before - self.hashes())

    @rule(
        stream=st.sampled_from(STREAMS),
        held=st.sets(st.tuples(st.sampled_from(HASHES), st.sampled_from(TIERS))),
    )
    def replace(self, stream: StreamId, held: set[tuple[int, Tier]]) -> None:
        before = self.hashes()

        gone = self.index.replace(stream, [run(each, tier=tier) for each, tier in held])

        self.model = {each for each in self.model if each[1] != stream}
        self.model |= {(each, stream, tier) for each, tier in held}
        assert sorted(gone) == sorted(before - self.hashes())

    @rule()
    def copy_what_was_touched(self) -> None:
        touched = self.index.take_touched()
        records = [self.copy.record(BlockHash(each)) for each in HASHES if each not in touched]
        records += [self.index.record(each) for each in touched]
        self.copy = BlockIndex()
        for record in records:
            if record is not None:
                self.copy.restore(record)

        assert self.copy.take_touched() == set()
        for each in HASHES:
            assert self.copy.record(BlockHash(each)) == self.index.record(BlockHash(each))

    @invariant()
    def same_holders(self) -> None:
        self.index.check()
        assert len(self.index) == len(self.hashes())
        for each in HASHES:
            expected = {(stream, tier) for found, stream, tier in self.model if found == each}
            assert self.index.holders(each) == expected
        for stream, tier in product(STREAMS, TIERS):
            held = sum(1 for each in self.model if each[1:] == (stream, tier))
            assert self.index.resident().get((stream, tier), 0) == held


IndexMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestIndexMachine = IndexMachine.TestCase
