"""What the web page shows of a turn and a text, and whom a cookie stands for."""

from __future__ import annotations

from array import array
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archive_samples import a_turn
from shepherd_events.events import StreamId, Tier
from shepherd_memory.archive.records import StoredTurn, TurnState
from shepherd_memory.residency import Residency
from shepherd_memory.retrieval.highlights import Span
from shepherd_memory.ui.excerpts import Piece, excerpt
from shepherd_memory.ui.sign_in import LIFETIME_S, SignIns
from shepherd_memory.ui.timeline import (
    MAX_CELLS,
    Cell,
    Standing,
    TurnView,
    cells_of,
    place_of,
    tally,
    views_of,
)

TIERS = st.lists(st.sampled_from([None, *Tier]))


def view(*tiers: Tier | None, archived: bool = False, recalled: int = 0) -> TurnView:
    turn = a_turn(1)
    if archived:
        turn = replace(turn, state=TurnState.ARCHIVED, archived_unix_ns=9)
    return TurnView(turn, Residency(tiers, {}), recalled, is_newest=False)


@pytest.mark.parametrize(
    ("shown", "standing", "is_spread", "is_back"),
    [
        (view(Tier.DEVICE, Tier.DEVICE), Standing.DEVICE, False, False),
        (view(Tier.DEVICE, Tier.HOST), Standing.HOST, True, False),
        (view(Tier.HOST, Tier.HOST), Standing.HOST, False, False),
        (view(Tier.DISK, Tier.HOST), Standing.DISK, True, False),
        (view(Tier.REMOTE), Standing.DISK, False, False),
        (view(Tier.DEVICE, None), Standing.EVICTED, False, False),
        (view(), Standing.EVICTED, False, False),
        (view(None, archived=True), Standing.ARCHIVED, False, False),
        (view(Tier.DEVICE, archived=True), Standing.ARCHIVED, False, True),
        (view(None, archived=True, recalled=5), Standing.RECALLED, False, False),
    ],
)
def test_a_turn_stands_where_its_worst_block_does_until_it_is_archived(
    shown: TurnView, standing: Standing, is_spread: bool, is_back: bool
) -> None:
    assert (shown.standing, shown.is_spread, shown.is_back) == (standing, is_spread, is_back)


def test_blocks_are_drawn_the_higher_the_nearer_they_are() -> None:
    assert cells_of([Tier.DEVICE, Tier.HOST, Tier.SHARED, None]) == [
        Cell(0, 0, 18, "device"),
        Cell(6, 7, 11, "host"),
        Cell(12, 12, 6, "disk"),
        Cell(18, 16, 2, "gone"),
    ]


@given(TIERS)
def test_however_many_blocks_there_are_a_missing_one_is_seen(tiers: list[Tier | None]) -> None:
    cells = cells_of(tiers * 9)

    assert len(cells) <= MAX_CELLS
    assert ("gone" in {cell.place for cell in cells}) is (None in tiers)
    assert all(cell.y + cell.height == 18 for cell in cells)
    assert {cell.place for cell in cells} <= {place_of(tier) for tier in tiers}


def test_the_newest_turn_is_known_and_all_are_counted_by_where_they_stand() -> None:
    turns: list[StoredTurn] = [a_turn(1), a_turn(2, "what"), a_turn(3, "who")]
    gone, there = (
        Residency((None,), {}),
        Residency((Tier.DEVICE,), {(StreamId("w"), Tier.DEVICE): 1}),
    )

    views = views_of(turns, [gone, there, there], {})

    assert [each.is_newest for each in views] == [False, False, True]
    assert tally(views) == [(Standing.DEVICE, 2), (Standing.EVICTED, 1)]
    assert views_of([], [], {}) == []


def test_an_excerpt_is_cut_around_the_first_word_that_was_asked_for() -> None:
    text = "x" * 500 + " cats " + "y" * 500
    found = excerpt(text, [Span(501, 505)], max_chars=200)

    assert [piece.text for piece in found if piece.is_marked] == ["cats"]
    assert found[0] == found[-1] == Piece("…", False)
    assert sum(len(piece.text) for piece in found[1:-1]) == 200


@given(st.text(), st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9))), st.integers(1, 80))
def test_an_excerpt_is_a_stretch_of_the_text_and_marks_only_what_it_was_told(
    text: str, places: list[tuple[int, int]], max_chars: int
) -> None:
    spans = sorted(
        Span(start, min(start + length, len(text))) for start, length in places if start < len(text)
    )
    pieces = excerpt(text, spans, max_chars)
    cut = len(text) > max_chars
    shown = "".join(piece.text for piece in pieces)
    inside = shown.removeprefix("…").removesuffix("…") if cut else shown

    assert inside in text
    assert cut or shown == text
    assert len(inside) <= max_chars
    assert {piece.text for piece in pieces if piece.is_marked} <= {text[a:b] for a, b in spans}


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_cookie_stands_for_a_credential_until_it_is_ended_or_too_old() -> None:
    clock, numbers = Clock(), count()
    sign_ins = SignIns(monotonic_s=clock, random_bytes=lambda size: bytes([next(numbers)]) * size)
    first, second = sign_ins.begin("key", ""), sign_ins.begin("other", "acme")

    assert first == "01" * 32
    assert sign_ins.of(first) is not None
    found = sign_ins.of(second)
    assert found is not None
    assert found.shown_in([(b"accept", b"*/*"), (b"authorization", b"Bearer mine")]) == [
        (b"accept", b"*/*"),
        (b"authorization", b"Bearer other"),
        (b"x-shepherd-tenant", b"acme"),
    ]
    assert "other" not in repr(found)
    assert sign_ins.of("") is sign_ins.of("00" * 32) is None
    assert sign_ins.form_token(first) != sign_ins.form_token(second)

    sign_ins.end(first)
    sign_ins.end(first)
    clock.now_s = LIFETIME_S - 1

    assert sign_ins.of(first) is None
    assert sign_ins.of(second) is not None

    clock.now_s = LIFETIME_S

    assert sign_ins.of(second) is None


def test_when_too_many_are_signed_in_the_oldest_is_signed_out() -> None:
    sign_ins = SignIns(monotonic_s=Clock(), max_sign_ins=2)
    cookies = [sign_ins.begin(str(number), "") for number in range(3)]

    assert [sign_ins.of(cookie) is not None for cookie in cookies] == [False, True, True]
    assert array("B", bytes.fromhex(cookies[0])) != array("B", bytes.fromhex(cookies[1]))
