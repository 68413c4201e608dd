"""A filter shows what matches, all of it, and hides no loss."""

from __future__ import annotations

from array import array
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from shepherd_events.event_filter import EventFilter, Op, StreamFilter
from shepherd_events.events import (
    Attribution,
    BlockBatch,
    BlockEvent,
    BlocksCleared,
    BlocksRemoved,
    BlocksReused,
    BlocksStored,
    Body,
    Frame,
    Goodbye,
    StreamId,
    Tier,
)
from shepherd_events.subscriber import Reset, ResetReason
from stream_readers import INFO, STREAM, removed, stored, turn

ANNA = Attribution("r1", "anna", "tenant-1", 1)
BERT = Attribution("r2", "bert", "tenant-2", 1)


def frame(body: Body, stream: StreamId = STREAM) -> Frame:
    return Frame(stream, 1, 1, 1, body)


def batch(*events: BlockEvent) -> Frame:
    return frame(BlockBatch(events))


def by(origin: Attribution, event: BlocksStored) -> BlocksStored:
    return replace(event, origin=origin)


def told(wanted: EventFilter, *items: Frame) -> list[BlockEvent]:
    """The block events that pass, in order."""
    stream = StreamFilter(wanted)
    passed = [stream.apply(item) for item in items]
    return [event for item in passed if item for event in getattr(item.body, "events", ())]  # type: ignore[union-attr] # no resets


def test_without_conditions_everything_passes_as_it_is() -> None:
    stream = StreamFilter(EventFilter())
    for body in (INFO, BlockBatch((stored(1), removed(1))), turn(1), Goodbye("done")):
        assert stream.apply(frame(body)) == frame(body)


def test_a_frame_is_cut_down_to_the_events_that_match() -> None:
    wanted = EventFilter(ops=frozenset({Op.REMOVED}), tiers=frozenset({Tier.HOST}))
    stream = StreamFilter(wanted)
    hit = removed(1, tier=Tier.HOST)

    assert stream.apply(batch(stored(1, tier=Tier.HOST), removed(1), hit)) == batch(hit)
    assert stream.apply(batch(stored(2))) is None
    assert stream.apply(frame(turn(1))) is None


def test_other_workers_are_not_shown() -> None:
    stream = StreamFilter(EventFilter(workers=frozenset({"worker-2"})))

    assert stream.apply(frame(turn(1))) is None
    assert stream.apply(frame(turn(1), StreamId("worker-2", 3))) is not None


def test_turns_belong_to_their_session_and_tenant() -> None:
    for wanted, shown in (
        (EventFilter(sessions=frozenset({"session-1"})), True),
        (EventFilter(sessions=frozenset({"session-2"})), False),
        (EventFilter(tenants=frozenset({"tenant-1"})), True),
        (EventFilter(tenants=frozenset({"tenant-1"}), sessions=frozenset({"x"})), False),
    ):
        assert (StreamFilter(wanted).apply(frame(turn(1))) is not None) is shown
    assert StreamFilter(EventFilter(sessions=frozenset({"session-1"}))).apply(frame(INFO)) is None


def test_removals_of_a_session_are_those_of_its_blocks_whoever_caused_them() -> None:
    anna = EventFilter(sessions=frozenset({"anna"}), ops=frozenset({Op.REMOVED}))
    events = told(
        anna,
        batch(by(ANNA, stored(1, 2))),
        batch(by(BERT, stored(3))),
        batch(replace(removed(3, 2), origin=BERT)),
        batch(removed(2), removed(1)),
    )

    assert events == [
        BlocksRemoved(array("Q", [2]), Tier.DEVICE, BERT),
        removed(1),
    ]


def test_a_block_of_a_session_is_followed_to_another_tier() -> None:
    anna = EventFilter(sessions=frozenset({"anna"}))
    moved = batch(stored(1, 2, 3, tier=Tier.HOST), removed(1, 2, 3))
    events = told(
        anna,
        batch(by(BERT, stored(1))),
        batch(by(ANNA, stored(2, parent=1))),
        moved,
        batch(removed(1, 2, tier=Tier.HOST)),
    )

    kinds = [(type(event).__name__, list(event.block_hashes)) for event in events]  # type: ignore[union-attr] # nothing is cleared
    assert kinds == [
        ("BlocksStored", [2]),
        ("BlocksStored", [2]),
        ("BlocksRemoved", [2]),
        ("BlocksRemoved", [2]),
    ]


def test_blocks_that_a_session_reused_are_its_own() -> None:
    reused = BlocksReused(array("Q", [1]), None, 0, origin=ANNA)
    anna = EventFilter(sessions=frozenset({"anna"}))

    assert told(anna, batch(by(BERT, stored(1))), batch(reused), batch(removed(1))) == [
        reused,
        removed(1),
    ]


def test_a_clearing_is_shown_to_who_loses_a_block_by_it() -> None:
    anna = EventFilter(sessions=frozenset({"anna"}))
    cleared = BlocksCleared(None)

    assert told(anna, batch(cleared)) == []
    first = by(ANNA, stored(1))
    assert told(anna, batch(first), batch(cleared), batch(removed(1))) == [first, cleared]


def test_a_reset_always_passes_with_the_blocks_that_match() -> None:
    reset = Reset(2, 9, (by(ANNA, stored(1)), by(BERT, stored(5))), ResetReason.LOST)
    stream = StreamFilter(EventFilter(sessions=frozenset({"anna"})))

    assert stream.apply(reset) == replace(reset, blocks=(by(ANNA, stored(1)),))
    assert stream.apply(batch(removed(5, 1))) == batch(removed(1))


def test_a_filter_of_a_session_remembers_no_more_than_its_resident_blocks() -> None:
    stream = StreamFilter(EventFilter(sessions=frozenset({"anna"})))
    for number in range(1, 500):
        stream.apply(batch(by(ANNA, stored(number))))
        stream.apply(batch(removed(number)))

    assert stream._tiers_of == {}


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5), st.sampled_from([ANNA, BERT]))))
def test_the_filters_of_all_sessions_together_show_every_removal(
    steps: list[tuple[bool, int, Attribution]],
) -> None:
    filters = [StreamFilter(EventFilter(sessions=frozenset({name}))) for name in ("anna", "bert")]
    resident: set[int] = set()
    for is_store, number, origin in steps:
        event = by(origin, stored(number)) if is_store else removed(number)
        passed = sum(f.apply(batch(event)) is not None for f in filters)
        assert passed >= (is_store or number in resident)
        (resident.add if is_store else resident.discard)(number)
