from __future__ import annotations

import gc
import weakref
from array import array
from functools import reduce
from operator import xor
from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shepherd_events.block_log import BlockLog, BlockView
from shepherd_events.block_places import NOWHERE, BlockPlaces
from shepherd_events.events import BlockHash, BlocksStored

HASHES = st.integers(1, 40)


def run_of(*hashes: int) -> BlocksStored:
    """Blocks that are no chain, each with its own hash for a token."""
    return BlocksStored(array("Q", hashes), None, array("I", hashes), 0)


def held(view: BlockView) -> list[int]:
    return [block_hash for part in view.parts() for block_hash in part.block_hashes]


class BlockLogMachine(RuleBasedStateMachine):
    """Segments of a few blocks against a set of hashes, and views against what was held then."""

    def __init__(self) -> None:
        super().__init__()
        self.log = BlockLog(segment_blocks=6, places=BlockPlaces(split_at=12))
        self.model: set[int] = set()
        self.views: list[tuple[BlockView, frozenset[int]]] = []

    @rule(hashes=st.lists(HASHES, max_size=8))
    def add(self, hashes: list[int]) -> None:
        self.log.add(run_of(*hashes))
        self.model.update(hashes)

    @rule(hashes=st.lists(HASHES, max_size=12))
    def remove(self, hashes: list[int]) -> None:
        self.log.remove(array("Q", hashes))
        self.model.difference_update(hashes)

    @rule(first=HASHES, length=st.integers(1, 12))
    def remove_neighbours(self, first: int, length: int) -> None:
        self.remove([*range(first, first + length)])

    @rule()
    def hold_still(self) -> None:
        self.views.append((self.log.view(), frozenset(self.model)))

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        assert self.log.hashes() == self.model
        assert len(self.log) == len(self.model)
        assert self.log.xor == reduce(xor, self.model, 0)
        for block_hash in range(1, 41):
            place = self.log.find(block_hash)
            assert (place is not None) == (block_hash in self.model)
            assert place is None or place[0].block_hashes[place[1]] == block_hash

    @invariant()
    def every_view_stays_as_it_was(self) -> None:
        for view, model in self.views:
            hashes = held(view)
            assert len(hashes) == len(model)
            assert set(hashes) == model


TestBlockLog = BlockLogMachine.TestCase
TestBlockLog.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_what_nobody_holds_is_let_go_with_its_tokens() -> None:
    log = BlockLog(segment_blocks=100)
    runs = [run_of(*range(first, first + 10)) for first in range(1, 101, 10)]
    tokens = [weakref.ref(run.token_ids) for run in runs]
    for run in runs:
        log.add(run)
    view = log.view()
    del run, runs

    log.remove(array("Q", range(1, 76)))
    assert [each() is None for each in tokens] == [False] * 10
    del view
    assert [each() is None for each in tokens] == [True] * 7 + [False] * 3

    log.remove(array("Q", range(76, 101)))
    assert [each() is None for each in tokens] == [True] * 10


def test_an_emptied_segment_is_gone_although_others_follow() -> None:
    log = BlockLog(segment_blocks=2)
    first = run_of(1, 2)
    tokens = weakref.ref(first.token_ids)
    log.add(first)
    log.add(run_of(3, 4))
    del first

    log.remove(array("Q", [2, 1]))

    assert tokens() is None
    assert held(log.view()) == [3, 4]


def test_a_chain_is_walked_across_runs_and_its_branches_follow() -> None:
    log = BlockLog()
    for hashes, parent in (((1, 2, 3), None), ((4,), 3), ((5, 6), 2), ((7,), 6)):
        log.add(
            BlocksStored(array("Q", hashes), parent and BlockHash(parent), array("I"), len(hashes))
        )
    breaths: list[None] = []

    chains = [
        [list(part.block_hashes) for part in chain]
        for chain in log.view().chains(lambda: breaths.append(None))
    ]

    assert chains == [[[1, 2, 3], [5, 6], [7]], [[4]]]
    assert breaths


def test_reading_a_view_leaves_the_garbage_collector_nothing_large_to_walk() -> None:
    log = BlockLog(segment_blocks=100)
    for first in range(1, 4001, 2):
        parent = BlockHash(first - 1) if first > 1 else None
        log.add(BlocksStored(array("Q", [first, first + 1]), parent, array("I"), first))
        if first % 200 == 199:
            log.remove(array("Q", [first + 1]))
    gc.collect()
    gc.disable()
    try:
        chains = log.view().chains()
        first_chain = next(chains)
        young = [each for each in gc.get_objects(0) if isinstance(each, (dict, list, set, tuple))]
    finally:
        gc.enable()

    assert len(first_chain) == 100
    assert max(map(len, young)) <= 100


def test_no_dictionary_of_a_large_table_is_ever_large() -> None:
    random, places = Random(1), BlockPlaces()
    hashes = [random.getrandbits(64) for _ in range(100_000)]
    for start in range(0, len(hashes), 100):
        assert places.put(array("Q", hashes[start : start + 100]), start) == 100

    assert len(places) == 100_000
    assert max(map(len, (places._whole, *places._parts))) < 2_000
    assert places.get(hashes[77_777]) == 77_777
    assert places.pop(array("Q", [*hashes[5:8], 0])) == [5, 6, 7, NOWHERE]
    assert places.hashes() == {*hashes[:5], *hashes[8:]}
