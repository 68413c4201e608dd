from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shepherd_events.stream_cursor import (
    Deliver,
    Duplicate,
    Gap,
    NewEpoch,
    Position,
    StreamCursor,
)


def cursor_at(epoch: int = 5, seq: int = 3) -> StreamCursor:
    return StreamCursor(Position(epoch, seq))


def test_the_next_frame_is_delivered_and_the_cursor_moves_on() -> None:
    cursor = cursor_at()

    assert cursor.observe(5, 4) == Deliver()
    assert cursor.position == Position(5, 4)
    assert cursor.gap is None


def test_a_frame_from_before_is_a_duplicate() -> None:
    cursor = cursor_at()

    assert cursor.observe(5, 3) == Duplicate()
    assert cursor.position == Position(5, 3)


def test_a_frame_from_beyond_opens_a_gap_that_stays_until_it_is_filled() -> None:
    cursor = cursor_at()

    assert cursor.observe(5, 6) == Gap(5, 4, 6)
    assert cursor.position == Position(5, 3)
    assert cursor.gap == Gap(5, 4, 7)
    assert [cursor.observe(5, seq) for seq in (4, 5, 6)] == [Deliver()] * 3
    assert cursor.gap is None


def test_a_lower_epoch_is_never_delivered() -> None:
    assert cursor_at().observe(4, 4) == Duplicate()
    assert cursor_at().observe(4, 99) == Duplicate()


def test_a_higher_epoch_begins_before_its_first_frame() -> None:
    cursor = cursor_at()

    assert cursor.observe(6, 2) == NewEpoch(6)
    assert cursor.position == Position(6, 0)
    assert cursor.observe(6, 2) == Gap(6, 1, 2)
    assert cursor.observe(6, 1) == Deliver()


def test_what_was_known_of_a_lower_epoch_is_no_gap_of_the_next() -> None:
    cursor = cursor_at()
    cursor.observe(5, 90)
    cursor.observe(6, 1)

    assert cursor.gap is None


def test_a_tombstone_is_next_when_its_range_holds_the_next_number() -> None:
    cursor = cursor_at()

    assert cursor.observe(5, 8, first_seq=2) == Deliver()
    assert cursor.position == Position(5, 8)


def test_a_tombstone_beyond_the_next_number_leaves_a_gap_up_to_its_range() -> None:
    assert cursor_at().observe(5, 8, first_seq=6) == Gap(5, 4, 6)


def test_a_heartbeat_finds_a_lost_tail() -> None:
    cursor = cursor_at()

    assert cursor.observe_head(5, 3) is None
    assert cursor.observe_head(5, 4) == Gap(5, 4, 5)
    assert cursor.observe_head(4, 99) is None
    assert cursor.observe_head(6, 2) == NewEpoch(6)
    assert cursor.observe_head(6, 2) == Gap(6, 1, 3)


def test_a_heartbeat_that_was_overtaken_closes_no_gap() -> None:
    cursor = cursor_at()
    cursor.observe(5, 9)

    assert cursor.observe_head(5, 3) == Gap(5, 4, 10)


def test_the_repr_shows_where_the_cursor_is() -> None:
    cursor = cursor_at()
    cursor.observe(5, 9)

    assert repr(cursor) == "<StreamCursor epoch 5, at 3 of 9>"


SIGHTINGS = st.lists(
    st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(0, 2), st.booleans()), max_size=60
)


@given(SIGHTINGS)
def test_whatever_arrives_positions_only_grow_and_nothing_is_skipped(
    sightings: list[tuple[int, int, int, bool]],
) -> None:
    cursor = StreamCursor(Position(1, 0))
    covered: dict[int, list[int]] = {1: [], 2: [], 3: []}
    for epoch, seq, span, is_head in sightings:
        before = cursor.position
        first = max(1, seq - span)
        if is_head:
            cursor.observe_head(epoch, seq)
        else:
            verdict = cursor.observe(epoch, seq, first_seq=first)
            if isinstance(verdict, NewEpoch):
                assert epoch > before.epoch
                verdict = cursor.observe(epoch, seq, first_seq=first)
            if isinstance(verdict, Deliver):
                assert first <= len(covered[epoch]) + 1 <= seq
                covered[epoch] = list(range(1, seq + 1))
            elif isinstance(verdict, Gap):
                assert (verdict.first, verdict.stop) == (cursor.next_seq, first)
        assert cursor.position >= before
        assert cursor.position.seq == len(covered[cursor.position.epoch])


@given(st.permutations(list(range(1, 9))))
def test_frames_in_any_order_shown_again_while_there_is_a_gap_all_arrive_once(
    order: list[int],
) -> None:
    cursor = StreamCursor(Position(1, 0))
    delivered = [seq for seq in order if cursor.observe(1, seq) == Deliver()]
    while (gap := cursor.gap) is not None:
        assert cursor.observe(gap.epoch, gap.first) == Deliver()
        delivered.append(gap.first)

    assert delivered == list(range(1, 9))
