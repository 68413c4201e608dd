"""Texts against a question, token by token: small vectors, sums done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shepherd_memory.retrieval.late_interaction import Tokens, late_interaction

EAST, NORTH = (1.0, 0.0), (0.0, 1.0)
NORTH_EAST = (math.sqrt(0.5), math.sqrt(0.5))


def read(*tokens: tuple[int, tuple[float, float]]) -> Tokens:
    ids = np.array([number for number, _ in tokens], np.int64)
    vectors = np.array([vector for _, vector in tokens], np.float32).reshape(-1, 2)
    return Tokens(ids, vectors)


def test_each_asked_token_counts_as_its_nearest_does_and_the_rare_one_more() -> None:
    asked = read((1, EAST), (2, NORTH))
    texts = [read((1, EAST)), read((1, EAST), (2, NORTH)), read((1, EAST), (9, NORTH_EAST))]

    scores = late_interaction(asked, texts)

    everywhere, rare = math.log1p(0.5 / 3.5), math.log1p(2.5 / 1.5)
    total = everywhere + rare
    assert scores == pytest.approx(
        [everywhere / total, 1.0, (everywhere + rare * math.sqrt(0.5)) / total]
    )


def test_a_text_or_a_question_without_tokens_is_0() -> None:
    assert late_interaction(read((1, EAST)), [read(), read((1, EAST))]) == [0.0, pytest.approx(1.0)]
    assert late_interaction(read(), [read((1, EAST))]) == [0.0]
    assert late_interaction(read((1, EAST)), []) == []


texts_of_tokens = st.lists(
    st.tuples(st.integers(0, 5), st.floats(0, 2 * math.pi)), min_size=1, max_size=6
).map(lambda tokens: read(*((each, (math.cos(at), math.sin(at))) for each, at in tokens)))


@given(texts_of_tokens, st.lists(texts_of_tokens, min_size=1, max_size=6))
def test_scores_are_cosines_and_do_not_depend_on_the_order_of_texts(
    asked: Tokens, texts: list[Tokens]
) -> None:
    scores = late_interaction(asked, texts)
    backwards = late_interaction(asked, texts[::-1])

    assert all(-1 - 1e-5 <= score <= 1 + 1e-5 for score in scores)
    assert backwards[::-1] == pytest.approx(scores, abs=1e-5)
    assert late_interaction(asked, [asked, *texts])[0] == pytest.approx(1.0, abs=1e-5)
