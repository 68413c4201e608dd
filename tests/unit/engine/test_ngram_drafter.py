"""What is guessed from a text, and how much."""

from __future__ import annotations

from array import array
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shepherd_worker.engine.embedded.sampling.speculative import NgramConfig, NgramDrafter

TEXTS = st.lists(st.integers(0, 3), min_size=1, max_size=60)


def guesses(text: list[int], *, window: int = 4, max_draft: int = 4, limit: int = 99) -> list[int]:
    drafter = NgramDrafter(NgramConfig(window, max_draft))
    return list(drafter.propose(array("I", text), limit))


@pytest.mark.parametrize(
    ("text", "draft"),
    [
        ([1, 2, 3, 4, 5, 6, 1, 2], [3, 4, 5, 6]),
        ([1, 2, 3, 9, 2, 3, 8, 1, 2, 3], [9, 2, 3, 8]),
        ([1, 2, 7, 1, 2, 8, 1, 2], [8, 1, 2, 8]),
        ([5, 5, 5], [5, 5, 5, 5]),
        ([1, 2, 1, 2, 1, 2], [1, 2, 1, 2]),
        ([1, 2, 3], []),
        ([1], []),
        ([2, 1, 3, 1], []),
    ],
)
def test_what_followed_the_last_tokens_before_is_guessed_to_follow_again(
    text: list[int], draft: list[int]
) -> None:
    assert guesses(text) == draft


def test_a_longer_match_is_better_than_a_later_one() -> None:
    text = [1, 2, 3, 9, 7, 2, 3, 8, 1, 2, 3]

    assert guesses(text, window=3)[0] == 9
    assert guesses(text, window=2)[0] == 8


def test_a_window_of_one_token_matches_single_tokens() -> None:
    assert guesses([2, 1, 3, 1], window=1) == [3, 1, 3, 1]


@pytest.mark.parametrize("limit", [0, 1, 2, 3])
def test_no_more_is_guessed_than_is_wanted(limit: int) -> None:
    assert guesses([5, 5, 5, 5], limit=limit) == [5] * limit


@given(text=TEXTS, window=st.integers(1, 5), cuts=st.sets(st.integers(1, 59)))
@settings(max_examples=80, deadline=None)
def test_a_guess_depends_on_the_text_and_not_on_when_it_was_asked_for(
    text: list[int], window: int, cuts: set[int]
) -> None:
    config = NgramConfig(window, 4)
    asked_often = NgramDrafter(config)
    for cut in sorted(cuts):
        asked_often.propose(array("I", text[:cut]), 4)

    assert asked_often.propose(array("I", text), 4) == NgramDrafter(config).propose(
        array("I", text), 4
    )


@given(text=TEXTS, window=st.integers(1, 5))
@settings(max_examples=80, deadline=None)
def test_a_guess_is_what_a_search_through_the_whole_text_finds(
    text: list[int], window: int
) -> None:
    """Where a pair occurs so seldom that every occurrence is looked at."""
    found: tuple[int, int] | None = None
    last = len(text) - 1
    shortest = min(2, window)
    for end in range(last):
        length = 0
        while length < min(window, end + 1) and text[end - length] == text[last - length]:
            length += 1
        if length >= shortest:
            found = max(found or (0, 0), (length, end))
    pairs = sum(text[i - 1 : i + 1] == text[last - 1 :] for i in range(1, last))
    drafted = guesses(text, window=window, max_draft=1)

    if pairs > 8 or (shortest == 1 and text[:last].count(text[last]) > 8):
        assert drafted
    else:
        assert drafted == ([] if found is None else [text[found[1] + 1]])


def test_drafts_shrink_while_they_are_wrong_and_grow_while_they_are_right() -> None:
    drafter, text = NgramDrafter(NgramConfig(2, 8)), array("I", [5] * 9)
    lengths = []
    for accepted in (8, 3, 0, 0, 1, 2, 4, 8):
        drafted = len(drafter.propose(text, 99))
        lengths.append(drafted)
        drafter.observe(len(text), drafted, accepted)

    assert lengths == [8, 8, 8, 4, 2, 2, 4, 8]


def test_a_text_that_goes_its_own_way_is_left_alone_ever_longer() -> None:
    drafter = NgramDrafter(NgramConfig(2, 8))
    asked = []
    for length in range(10, 300):
        if drafter.propose(array("I", [5] * length), 99):
            asked.append(length)
            drafter.observe(length, 1, 0)
    pauses = [later - earlier for earlier, later in pairwise(asked)]

    assert pauses == [1, 1, 1, 2, 4, 8, 16, 32, 64, 64, 64]


def test_one_right_guess_ends_the_pauses() -> None:
    drafter, text = NgramDrafter(NgramConfig(2, 8)), array("I", [5] * 40)
    for _ in range(7):
        drafter.observe(0, 1, 0)
    drafter.observe(len(text), 1, 1)
    drafter.observe(len(text), 1, 0)

    assert drafter.propose(text, 99) == ()
    text.append(5)
    assert drafter.propose(text, 99) == (5,)
