"""Documents and questions are cut into the same terms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shepherd_memory.analysis import (
    MAX_QUERY_TERMS,
    day_in_words,
    document_terms,
    query_terms,
    terms_of,
)
from shepherd_memory.turns import Said


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Caroline's cafés were RUNNING", ["carolin", "cafe", "were", "run"]),
        ("don\u2019t whale_shark w1", ["don", "whale", "shark", "w1"]),
        ("'quoted' \x00 \ud800 ?!", ["quot"]),
        ("東京タワー", ["東京", "京タ", "タワ", "ワー"]),
        ("がか", ["がか"]),
        ("v2東京", ["v2", "東京"]),
        ("", []),
    ],
)
def test_words_become_stems_without_accents_and_unspaced_writing_pairs(
    text: str, terms: list[str]
) -> None:
    assert terms_of(text) == terms


def test_a_question_asks_for_what_tells_something_and_each_word_once() -> None:
    assert query_terms("What did the whales say to the whale?") == ["whale", "say"]
    assert query_terms("to be or not to be") == ["to", "be", "or", "not"]
    assert len(query_terms(" ".join(f"w{n}" for n in range(999)))) == MAX_QUERY_TERMS


def test_a_turn_is_found_by_its_day_in_words() -> None:
    may = 1_683_550_560 * 10**9

    assert day_in_words(may) == "Monday 8 May 2023"
    assert document_terms([Said("user", "Hi")], may) == ["hi", "monday", "8", "may", "2023"]
    assert day_in_words(12) == ""


@given(st.text())
def test_a_store_that_splits_at_blanks_counts_exactly_these_terms(text: str) -> None:
    terms = terms_of(text)

    assert " ".join(terms).split() == terms
    assert " ".join(terms).split(" ") == (terms or [""])
    assert all(not (set(term) & set("\x00\t\n\"'*()^-+:")) for term in terms)
    assert all(term == term.lower() or not term.isascii() for term in terms)
