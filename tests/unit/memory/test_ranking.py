"""How archived turns are put in order, without any store."""

from __future__ import annotations

from array import array
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shepherd_memory.archive.records import Document, Postings, StoredVectors
from shepherd_memory.retrieval.corpus import Corpus
from shepherd_memory.retrieval.dates import asks_for_latest, time_asked_for
from shepherd_memory.retrieval.dense import VectorMatrix, normalised
from shepherd_memory.retrieval.fusion import best, diversified, fuse, weighted_by_time
from shepherd_memory.retrieval.highlights import spans_of
from shepherd_memory.retrieval.lexical import MAX_POSTINGS, Matches, match, telling_terms

DAY_NS = 86_400 * 10**9


def corpus_of(*talks: tuple[str, int]) -> Corpus:
    """Sessions of so many turns, each turn a document of ten terms, a day after the last."""
    documents = []
    for session, size in talks:
        for ordinal in range(1, size + 1):
            doc = len(documents) + 1
            documents.append(Document(doc, session, ordinal, doc * DAY_NS, 10))
    return Corpus().grown(documents)


def scores_of(corpus: Corpus, *postings: tuple[str, int, int]) -> dict[int, float]:
    terms = sorted({term for term, _, _ in postings})
    frequencies = {term: sum(each[0] == term for each in postings) for term in terms}
    rows = [
        Postings(
            term,
            array("q", [doc for each, doc, _ in postings if each == term]),
            array("q", [occurrences for each, _, occurrences in postings if each == term]),
        )
        for term in terms
    ]
    found = match(corpus, terms, frequencies, rows)
    docs = corpus.docs[found.places].tolist()
    return dict(zip(docs, found.scores.tolist(), strict=True))


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5)), min_size=1, max_size=30),
    st.data(),
)
def test_a_corpus_that_grew_in_steps_is_the_one_that_was_made_at_once(
    turns: list[tuple[str, int]], data: st.DataObject
) -> None:
    documents = [
        Document(doc, session, ordinal, doc, doc)
        for doc, (session, ordinal) in enumerate(turns, start=1)
    ]
    at_once, grown = Corpus().grown(documents), Corpus()
    while documents:
        size = data.draw(st.integers(1, len(documents)))
        grown, documents = grown.grown(documents[:size]), documents[size:]

    for name in ("keys", "docs", "started_unix_ns", "num_terms", "places"):
        assert getattr(grown, name).tolist() == getattr(at_once, name).tolist()
    assert at_once.docs[at_once.places[at_once.docs]].tolist() == at_once.docs.tolist()


def test_a_word_counts_for_the_turns_around_it_the_less_the_farther_and_in_its_session_alone() -> (
    None
):
    scores = scores_of(corpus_of(("a", 6), ("b", 2)), ("whale", 5, 1))

    assert set(scores) == {3, 4, 5, 6, 7}
    assert scores[5] > scores[4] == scores[6] > scores[3] > 0
    assert scores[7] == 0


def test_all_words_of_a_question_around_a_turn_beat_one_word_repeated() -> None:
    scores = scores_of(corpus_of(("a", 9)), ("whale", 2, 9), ("whale", 7, 1), ("shark", 8, 1))

    assert max(scores, key=scores.__getitem__) in {7, 8}


def test_what_was_stored_by_hand_has_no_neighbours() -> None:
    corpus = Corpus().grown([Document(doc, "", 0, 1, 10) for doc in (1, 2, 3)])

    assert scores_of(corpus, ("whale", 2, 1))[2] > 0
    assert sum(score > 0 for score in scores_of(corpus, ("whale", 2, 1)).values()) == 1
    assert corpus.beside(0, 1) is None


def test_two_versions_of_a_turn_do_not_speak_for_one_another() -> None:
    corpus = Corpus().grown([Document(1, "a", 3, 1, 10), Document(2, "a", 3, 1, 10)])

    assert [score > 0 for score in scores_of(corpus, ("whale", 1, 1)).values()] == [True, False]


def test_a_posting_of_a_document_that_is_not_known_yet_is_left_out() -> None:
    assert scores_of(corpus_of(("a", 1)), ("whale", 99, 1)) == {}
    assert scores_of(Corpus(), ("whale", 1, 1)) == {}


def test_the_rarest_words_are_looked_up_first_and_common_ones_only_where_there_is_room() -> None:
    frequencies = {"rare": 3, "common": MAX_POSTINGS, "some": 50}

    terms = ["common", "some", "none", "rare"]
    assert telling_terms(terms, frequencies, 10**6) == ["rare", "some"]
    assert telling_terms(["common"], frequencies, 10**6) == ["common"]
    assert telling_terms(["some", "all"], {"some": 490, "all": 900}, 900) == ["some"]


def test_vectors_find_what_no_word_does_and_a_turn_has_its_nearest() -> None:
    corpus = corpus_of(("a", 3))
    rows = normalised(np.array([[1, 0], [0, 1], [1, 1], [-1, 0]], np.float32))
    matrix = VectorMatrix.empty(2)
    matrix = matrix.grown(
        [StoredVectors(1, rows[0].tobytes()), StoredVectors(99, rows[0].tobytes())]
    )
    grown = matrix.grown([StoredVectors(2, rows[1:3].tobytes())])

    near = grown.nearness(rows[0], corpus.places, len(corpus))

    assert near.tolist() == pytest.approx([1.0, 0.7071068, -1.0])
    assert matrix.nearness(rows[0], corpus.places, len(corpus)).tolist() == [1.0, -1.0, -1.0]
    nothing = Matches(np.empty(0, np.int64), np.empty(0), np.empty(0))
    assert fuse(nothing, corpus, near, 0.4).scores.tolist() == pytest.approx([0.4, 0.0, 0.0])
    assert fuse(nothing, corpus, np.full(3, -1.0, np.float32), 0.4) is nothing


def test_a_vector_counts_a_little_for_the_turns_beside_it_and_says_nothing_of_their_relevance() -> (
    None
):
    corpus = corpus_of(("a", 4), ("b", 1))
    nothing = Matches(np.empty(0, np.int64), np.empty(0), np.empty(0))
    near = np.array([0.0, 0.0, 0.0, 1.0, 0.5], np.float32)

    found = fuse(nothing, corpus, near, 1.0)

    assert found.scores.tolist() == pytest.approx([0.0, 0.0, 0.1, 1.0, 0.5])
    assert found.coverage.tolist() == pytest.approx([0.0, 0.0, 0.0, 1.0, 0.5])


def test_the_newer_comes_first_among_equals_and_age_alone_moves_nothing_else() -> None:
    corpus = corpus_of(("a", 4))
    matches = Matches(np.arange(4), np.array([1.0, 1.0, 1.2, 0.1]), np.ones(4))

    assert corpus.docs[best(matches, corpus, 3)].tolist() == [3, 2, 1]
    assert weighted_by_time(matches, corpus, None, latest=False).scores.tolist() == [
        1.0,
        1.0,
        1.2,
        0.1,
    ]


@given(st.integers(0, 5000), st.integers(0, 5000))
def test_no_age_puts_a_turn_before_one_that_fits_a_quarter_better(old: int, new: int) -> None:
    corpus = Corpus().grown(
        [Document(1, "a", 1, old * DAY_NS, 10), Document(2, "b", 1, new * DAY_NS, 10)]
    )
    matches = Matches(np.arange(2), np.array([1.25, 1.0]), np.ones(2))

    scores = weighted_by_time(matches, corpus, None, latest=True).scores

    assert scores[0] > scores[1]
    if old < new:
        assert scores[1] > 1.0


@pytest.mark.parametrize(
    ("query", "since", "until"),
    [
        ("in May 2023", "2023-05-01", "2023-06-01"),
        ("on 8 May 2023, what", "2023-05-08", "2023-05-09"),
        ("on the 8th of May", "2023-05-08", "2023-05-09"),
        ("May 8th, 2022", "2022-05-08", "2022-05-09"),
        ("on 2023-05-08", "2023-05-08", "2023-05-09"),
        ("in 2023-12", "2023-12-01", "2024-01-01"),
        ("what did I say yesterday", "2023-08-19", "2023-08-20"),
        ("last week", "2023-08-06", "2023-08-21"),
        ("in December", "2022-12-01", "2023-01-01"),
        ("in 2022", "2022-01-01", "2023-01-01"),
        ("two days ago", "2023-08-17", "2023-08-19"),
    ],
)
def test_a_question_names_its_time(query: str, since: str, until: str) -> None:
    now = int(datetime(2023, 8, 20, 13, tzinfo=UTC).timestamp()) * 10**9

    asked = time_asked_for(query, now)

    assert asked is not None
    days = [datetime.fromtimestamp(each // 10**9, UTC).date().isoformat() for each in asked]
    assert days == [since, until]


@pytest.mark.parametrize(
    "query", ["may I ask", "31 February 2023", "2023-99-01", "whale", "400 years ago march"]
)
def test_what_is_no_time_is_none(query: str) -> None:
    assert time_asked_for(query, 1_692_000_000 * 10**9) is None


@given(st.text(max_size=60), st.integers(0, 2**62))
def test_no_question_is_too_strange_to_look_for_a_time(query: str, now: int) -> None:
    asked = time_asked_for(query, now)

    assert asked is None or asked.since_unix_ns < asked.until_unix_ns
    asks_for_latest(query)


def test_a_repetition_makes_room_for_something_else_of_nearly_the_same_worth() -> None:
    same, other = frozenset({"a", "b"}), frozenset({"c", "d"})

    assert diversified([1.0, 0.95, 0.9], [same, same, other], 2) == [0, 2]
    assert diversified([1.0, 0.95, 0.5], [same, same, other], 2) == [0, 1]
    assert diversified([], [], 3) == []


def test_the_words_that_were_asked_for_are_marked_where_they_stand() -> None:
    text = "The Whales' song: «whale», Café!"

    spans = spans_of(text, frozenset({"whale", "cafe"}))

    assert [text[span.start : span.end] for span in spans] == ["Whales", "whale", "Café"]
