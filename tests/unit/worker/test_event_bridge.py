"""What the bridge passes on, to whom, and in which order."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shepherd_events.events import (
    BlockEvent,
    BlockHash,
    BlocksRemoved,
    BlocksReused,
    BlocksStored,
    CacheContext,
    Tier,
    TurnCompleted,
)
from shepherd_events.resident_set import ResidentSet
from shepherd_worker.attribution import SessionOrigin
from shepherd_worker.engine.protocol import SequenceFinished
from shepherd_worker.event_bridge import EventBridge
from shepherd_worker.request import FinishReason
from shepherd_worker.tier_fold import TierFold

ORIGIN = SessionOrigin(
    request_id="r",
    session_id="s",
    tenant="local",
    turn=2,
    parent_session_id="p",
    session_final=True,
)


class Recorder:
    """A stream and a router that remember what they were told."""

    def __init__(self) -> None:
        self.stream: list[Any] = []
        self.router: list[Any] = []

    def publish(self, events: tuple[BlockEvent, ...]) -> None:
        self.stream.append(events)

    def publish_turn(self, turn: TurnCompleted) -> None:
        self.stream.append(turn)

    def stored(self, event: BlocksStored) -> None:
        self.router.append(event)

    def removed(self, event: BlocksRemoved) -> None:
        self.router.append(event)


def stored(*hashes: int) -> BlocksStored:
    return BlocksStored(array("Q", hashes), None, array("I"), 0, origin=ORIGIN)


def removed(*hashes: int) -> BlocksRemoved:
    return BlocksRemoved(array("Q", hashes))


def finished(origin: SessionOrigin | None = ORIGIN) -> SequenceFinished:
    return SequenceFinished(
        origin=origin,
        context=CacheContext(lora_name="l"),
        prompt_tokens=20,
        cached_tokens=16,
        generated_tokens=5,
        last_block_hash=BlockHash(2),
        num_full_blocks=1,
        tail_token_ids=array("I", [7, 8]),
        finish_reason=FinishReason.EOS,
        started_unix_ns=9,
    )


def bridge(recorder: Recorder, *, completes_turns: bool = True) -> EventBridge:
    return EventBridge(recorder, router=recorder, completes_turns=completes_turns)


def test_a_turn_comes_after_its_blocks_and_before_their_removal() -> None:
    recorder = Recorder()

    bridge(recorder).forward((stored(1), stored(2), finished(), removed(1, 2)))

    before, turn, after = recorder.stream
    assert before == (stored(1), stored(2))
    assert isinstance(turn, TurnCompleted)
    assert after == (removed(1, 2),)


def test_a_turn_says_whose_it_is_and_what_no_block_holds() -> None:
    recorder = Recorder()

    bridge(recorder).forward((finished(),))

    assert recorder.stream == [
        TurnCompleted(
            origin=ORIGIN,
            prompt_tokens=20,
            cached_tokens=16,
            generated_tokens=5,
            last_block_hash=BlockHash(2),
            num_full_blocks=1,
            tail_token_ids=array("I", [7, 8]),
            finish_reason="eos",
            started_unix_ns=9,
            context=CacheContext(lora_name="l"),
            parent_session_id="p",
            session_final=True,
        )
    ]


def test_the_router_hears_of_stored_and_removed_blocks_only() -> None:
    recorder = Recorder()
    reused = BlocksReused(array("Q", [1]), None, 0)

    bridge(recorder).forward((stored(1), reused, finished(), removed(1)))

    assert recorder.router == [stored(1), removed(1)]


def test_a_prefill_worker_completes_no_turn() -> None:
    recorder = Recorder()

    bridge(recorder, completes_turns=False).forward((stored(1), finished()))

    assert recorder.stream == [(stored(1),)]


def test_a_health_probe_leaves_no_turn() -> None:
    recorder = Recorder()

    bridge(recorder).forward((finished(origin=None),))

    assert recorder.stream == []


def test_the_stream_hears_of_a_move_between_tiers_and_the_router_only_of_the_end() -> None:
    recorder = Recorder()
    told = bridge(recorder)
    to_host = (replace(stored(1, 2), tier=Tier.HOST), removed(1, 2))
    half_gone = BlocksRemoved(array("Q", [2]), Tier.HOST)
    back = (replace(stored(1), tier=Tier.DEVICE), BlocksRemoved(array("Q", [1]), Tier.HOST))

    for batch in ((stored(1, 2),), to_host, (half_gone,), back, (removed(1),)):
        told.forward(batch)

    assert recorder.stream == [(stored(1, 2),), to_host, (half_gone,), back, (removed(1),)]
    assert recorder.router == [stored(1, 2), half_gone, removed(1)]


tiers = st.sampled_from([Tier.DEVICE, Tier.HOST, Tier.DISK])
runs = st.lists(st.integers(1, 6), min_size=1, max_size=4, unique=True)


@given(st.lists(st.tuples(st.booleans(), runs, tiers), max_size=20))
def test_a_reader_without_tiers_holds_what_any_tier_holds(
    news: list[tuple[bool, list[int], Tier]],
) -> None:
    fold, truth, told = TierFold(), ResidentSet(), ResidentSet()
    for is_stored, hashes, tier in news:
        if is_stored:
            run = BlocksStored(array("Q", hashes), None, array("I", [7] * len(hashes)), 0, tier)
            truth.apply(run)
            for part in fold.stored(run):
                assert not told.hashes() & set(part.block_hashes)
                told.apply(replace(part, tier=Tier.DEVICE))
        else:
            event = BlocksRemoved(array("Q", hashes), tier)
            truth.apply(event)
            gone = fold.removed(event)
            assert told.hashes() >= set(gone)
            told.apply(BlocksRemoved(gone))

        assert told.hashes() == frozenset().union(*(truth.hashes(tier) for tier in Tier))
