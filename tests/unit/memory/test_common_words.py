"""Counts of common words are taken again only when an archive has grown."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from shepherd_memory.retrieval.common_words import COMMON, CommonWords


class Counted:
    """An archive's counts, and what was asked of them."""

    def __init__(self, **counts: int) -> None:
        self.counts = counts
        self.asked: list[str] = []

    def __call__(self, terms: Iterable[str]) -> dict[str, int]:
        terms = list(terms)
        self.asked += terms
        return {term: self.counts[term] for term in terms if term in self.counts}


def test_a_common_word_is_counted_again_when_a_hundredth_has_come_and_a_rare_one_each_time() -> (
    None
):
    words, count = CommonWords(), Counted(the=COMMON, whale=COMMON - 1)
    sizes = (100_000, 101_000, 101_001)

    found = [words.frequencies(["the", "whale", "none"], size, count) for size in sizes]

    assert found == [{"the": COMMON, "whale": COMMON - 1}] * 3
    assert count.asked == ["the", "whale", "none", "whale", "none", "the", "whale", "none"]


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 3000)), max_size=20))
def test_a_remembered_count_is_never_off_by_more_than_a_hundredth_of_the_archive(
    growth: list[tuple[int, int]],
) -> None:
    words, size, common = CommonWords(), 2 * COMMON, COMMON
    for documents, holding in growth:
        size, common = size + documents, common + min(documents, holding)
        said = words.frequencies(["the"], size, Counted(the=common))["the"]

        assert 0 <= common - said <= size / 100
