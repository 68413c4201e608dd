"""Searches of real stores: filters, neighbours, models that fail, what is remembered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from archive_samples import a_turn, keep
from shepherd_memory.archive.files import SqliteArchives
from shepherd_memory.embedding.backfill import embed_missing
from shepherd_memory.errors import InvalidParameterError, ModelUnavailableError
from shepherd_memory.retrieval.dense import Matrix, normalised
from shepherd_memory.search import Question, Searcher

TOPICS = {"whale": 0, "orca": 0, "fish": 0, "pasta": 1, "dinner": 1}


class TopicEmbedder:
    """Knows which words mean alike; can be told to fail."""

    dimensions = 3
    weight = 0.4

    def __init__(self, name: str = "topics") -> None:
        self.name = name
        self.fails = False
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str], *, is_query: bool) -> Matrix:
        if self.fails:
            raise ModelUnavailableError(self.name, "told so")
        if is_query:
            self.asked += texts
        rows = np.full((len(texts), 3), 0.01, np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                rows[row, TOPICS.get(word, 2)] += 1
        return normalised(rows)


class LongestFirst:
    """A reranker that likes long texts; can be told to fail."""

    def __init__(self) -> None:
        self.fails = False

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        if self.fails:
            raise ModelUnavailableError("reranker", "told so")
        return [float(len(text)) for text in texts]


@pytest.fixture
def archives(tmp_path: Path) -> Iterator[SqliteArchives]:
    opened = SqliteArchives(tmp_path)
    yield opened
    opened.close()


def found(searcher: Searcher, archives: SqliteArchives, question: Question) -> list[str]:
    return [hit.turn.question for hit in searcher.search(archives.of("t"), question)]


def test_hits_can_be_filtered_by_time_and_session(archives: SqliteArchives) -> None:
    keep(archives, *(a_turn(n, f"whale {n}", started=n) for n in (1, 5, 9)), archived=True)
    keep(archives, a_turn(1, "whale o", session="o", started=5), archived=True)
    searcher = Searcher()

    assert found(searcher, archives, Question("whale", 9, since_unix_ns=5, until_unix_ns=9)) == [
        "whale 5",
        "whale o",
    ]
    assert found(searcher, archives, Question("whale", 9, session="o", since_unix_ns=1)) == [
        "whale o"
    ]
    assert found(searcher, archives, Question("whale", 9, session="x")) == []


def test_relevance_is_the_share_of_the_question_and_a_threshold_has_an_effect(
    archives: SqliteArchives,
) -> None:
    turns = ["whale and shark", "shark", "neither"]
    keep(archives, *(a_turn(1, text, session=text) for text in turns), archived=True)

    hits = Searcher().search(archives.of("t"), Question("whale shark", 9))

    assert [hit.turn.question for hit in hits] == ["whale and shark", "shark"]
    assert hits[0].relevance > 0.8
    assert 0 < hits[1].relevance < 0.5
    strict = Question("whale shark", 9, min_relevance=0.7)
    assert found(Searcher(), archives, strict) == ["whale and shark"]


def test_a_hit_comes_with_its_neighbours_and_its_words_marked(archives: SqliteArchives) -> None:
    keep(archives, a_turn(1, "before"), a_turn(2, "a Whale!"), a_turn(3, "after"), archived=True)

    question = Question("whales", 1, neighbours=True)
    (hit,) = Searcher().search(archives.of("t"), question)

    assert hit.before is not None
    assert hit.after is not None
    assert (hit.before.question, hit.after.question) == ("before", "after")
    assert hit.highlights == (((2, 7),), ())
    (plain,) = Searcher().search(archives.of("t"), Question("whales", 1))
    assert (plain.before, plain.after) == (None, None)


@pytest.mark.parametrize(
    ("field", "asked"),
    [
        ("k", {"k": 0}),
        ("k", {"k": 101}),
        ("min_relevance", {"min_relevance": 1.5}),
        ("since_unix_ns", {"since_unix_ns": 2**63}),
        ("query", {"query": "x" * 4097}),
    ],
)
def test_a_question_out_of_bounds_names_its_field(field: str, asked: dict[str, object]) -> None:
    with pytest.raises(InvalidParameterError) as caught:
        Question(**{"query": "x", **asked})  # type: ignore[arg-type]

    assert caught.value.field == field


def test_a_searcher_sees_what_came_and_what_was_erased_since(archives: SqliteArchives) -> None:
    searcher, whale = Searcher(), Question("whale", 9)
    first, second = a_turn(1, "whale 1", session="a"), a_turn(1, "whale 2", session="b")
    keep(archives, first, archived=True)
    assert found(searcher, archives, whale) == ["whale 1"]

    keep(archives, second, archived=True)
    assert found(searcher, archives, whale) == ["whale 2", "whale 1"]

    archives.of("t").erase_session("a", 100)
    assert found(searcher, archives, whale) == ["whale 2"]
    archives.erase("t", 100)
    assert found(searcher, archives, whale) == []


def test_only_the_tenants_that_were_asked_last_are_remembered(archives: SqliteArchives) -> None:
    searcher = Searcher(max_tenants=1)
    for tenant in ("t", "u"):
        keep(archives, a_turn(1, f"whale {tenant}", tenant=tenant), tenant=tenant, archived=True)

    for tenant in ("t", "u", "t"):
        (hit,) = searcher.search(archives.of(tenant), Question("whale", 9))
        assert hit.turn.question == f"whale {tenant}"
        assert len(searcher._tenants) == 1


def test_vectors_find_what_no_word_does(archives: SqliteArchives) -> None:
    embedder = TopicEmbedder()
    keep(archives, a_turn(1, "orca", session="a"), a_turn(1, "pasta", session="b"), archived=True)
    searcher, question = Searcher(embedder=embedder), Question("whale", 1)

    assert found(searcher, archives, question) == []
    assert embed_missing(archives.of("t"), embedder) == 2
    assert embed_missing(archives.of("t"), embedder) == 0
    assert found(searcher, archives, question) == ["orca"]
    assert Searcher(embedder=embedder).search(archives.of("t"), question)[0].relevance > 0.5


def test_another_model_embeds_everything_again(archives: SqliteArchives) -> None:
    keep(archives, a_turn(1, "orca", session="a"), archived=True)
    old, new = TopicEmbedder("old"), TopicEmbedder("new")
    embed_missing(archives.of("t"), old)

    assert found(Searcher(embedder=new), archives, Question("whale")) == []
    assert embed_missing(archives.of("t"), new) == 1
    assert found(Searcher(embedder=new), archives, Question("whale")) == ["orca"]
    assert found(Searcher(embedder=old), archives, Question("whale")) == []


def test_an_embedder_that_is_down_is_told_of_and_done_without(archives: SqliteArchives) -> None:
    embedder, failures = TopicEmbedder(), list[str]()
    keep(archives, a_turn(1, "whale"), archived=True)
    embed_missing(archives.of("t"), embedder)
    searcher = Searcher(embedder=embedder, on_failure=failures.append)
    embedder.fails = True

    assert found(searcher, archives, Question("whale")) == ["whale"]
    assert failures == ["embedder"]
    with pytest.raises(ModelUnavailableError, match="told so"):
        keep(archives, a_turn(2), archived=True)
        embed_missing(archives.of("t"), embedder)


def test_words_that_stand_everywhere_are_kept_from_the_embedder(archives: SqliteArchives) -> None:
    embedder = TopicEmbedder()
    turns = [a_turn(n, f"Hi Caroline, about {n}", session=f"s{n}") for n in range(1, 30)]
    keep(archives, *turns, archived=True)
    embed_missing(archives.of("t"), embedder)

    Searcher(embedder=embedder).search(archives.of("t"), Question("Caroline's whale"))

    assert embedder.asked == ["whale"]


def test_a_reranker_has_its_say_and_may_fail(archives: SqliteArchives) -> None:
    reranker, failures = LongestFirst(), list[str]()
    keep(archives, a_turn(1, "whale", session="a", started=2), archived=True)
    keep(archives, a_turn(1, "whale " + "of a time " * 9, session="b", started=1), archived=True)
    searcher = Searcher(reranker=reranker, on_failure=failures.append)

    ranked = found(searcher, archives, Question("whale"))
    reranker.fails = True

    assert len(ranked[0]) > len(ranked[1])
    assert found(searcher, archives, Question("whale"))[0] == "whale"
    assert failures == ["reranker"]
