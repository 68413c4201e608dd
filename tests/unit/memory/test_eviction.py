"""Which turns wait on which blocks, against a naive model."""

from __future__ import annotations

from array import array

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shepherd_events.events import StreamId
from shepherd_events.stream_cursor import Position
from shepherd_memory.eviction import EvictionWatch, Placement, TurnKey, is_evicted

W1, W2 = StreamId("w1"), StreamId("w2")


def key(name: str) -> TurnKey:
    return TurnKey("t", name)


def placed(*hashes: int, stream: StreamId = W1, at: tuple[int, int] = (1, 5)) -> Placement:
    return Placement(stream, Position(*at), 0, array("Q", hashes))


def test_a_turn_is_evicted_when_a_block_is_missing_or_it_has_none() -> None:
    assert not is_evicted(placed(1, 2), {1, 2, 3})
    assert is_evicted(placed(1, 2), {1})
    assert is_evicted(placed(), {1})


def test_a_turn_that_is_ahead_waits_for_its_stream_to_come_so_far() -> None:
    watch = EvictionWatch()
    watch.hold_back(key("a"), placed(at=(1, 5)))
    watch.hold_back(key("b"), placed(at=(2, 1)))
    watch.hold_back(key("c"), placed(stream=W2))

    assert watch.streams_ahead() == {W1, W2}
    assert watch.release(W1, Position(1, 4)) == set()
    assert watch.is_ahead(key("a"), placed())
    assert watch.release(W1, Position(1, 5)) == {key("a")}
    assert not watch.is_ahead(key("a"), placed())
    assert watch.release(W1, Position(2, 9)) == {key("b")}
    assert watch.release(W2, None) == {key("c")}
    assert watch.streams_ahead() == set()
    assert watch.release(W1, None) == set()


class WatchMachine(RuleBasedStateMachine):
    """The watch knows what a dict from turn to blocks knows."""

    def __init__(self) -> None:
        super().__init__()
        self.watch = EvictionWatch()
        self.model: dict[TurnKey, set[int]] = {}

    @rule(name=st.sampled_from("abcd"), hashes=st.sets(st.integers(1, 6)))
    def place(self, name: str, hashes: set[int]) -> None:
        self.watch.watch(key(name), array("Q", hashes))
        self.model[key(name)] = hashes

    @rule(name=st.sampled_from("abcd"))
    def drop(self, name: str) -> None:
        self.watch.drop(key(name))
        self.model.pop(key(name), None)

    @rule(gone=st.sets(st.integers(1, 6)))
    def lose(self, gone: set[int]) -> None:
        losing = {each for each, hashes in self.model.items() if hashes & gone}
        assert self.watch.waiting_on(gone) == losing

    @invariant()
    def conserved(self) -> None:
        self.watch.check()
        assert len(self.watch) == len(self.model)


WatchMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
TestWatchMachine = WatchMachine.TestCase
