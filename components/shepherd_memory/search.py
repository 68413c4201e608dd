"""From a question to archived turns, of one tenant at a time.

    question ──► terms ──► store counts them ──► window BM25 ─┐
        └──────► vector ──► this tenant's matrix ─────────────┴─► fused, by time, filtered,
                                          reranked, no repetitions ──► turns with highlights

A searcher remembers where turns stand and their vectors, of the tenants that
were asked last; the words themselves stay in the store.  Nothing in a query is
syntax.  An embedder or reranker that fails is told of and done without: a
search is answered by words alone then.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from threading import Lock

import numpy as np

from shepherd_memory.analysis import query_terms, terms_of, words_of
from shepherd_memory.archive.protocol import Archive
from shepherd_memory.archive.records import StoredTurn
from shepherd_memory.embedding.protocol import Embedder, Reranker, text_of
from shepherd_memory.errors import InvalidParameterError, ModelUnavailableError
from shepherd_memory.retrieval.common_words import CommonWords
from shepherd_memory.retrieval.corpus import Corpus
from shepherd_memory.retrieval.dates import asks_for_latest, time_asked_for
from shepherd_memory.retrieval.dense import VectorMatrix
from shepherd_memory.retrieval.fusion import (
    best,
    chosen,
    diversified,
    fuse,
    stretched,
    weighted_by_time,
)
from shepherd_memory.retrieval.highlights import Span, spans_of
from shepherd_memory.retrieval.lexical import Matches, match, telling_terms

log = logging.getLogger(__name__)

MAX_QUERY_CHARS = 4096
MAX_HITS = 100
MAX_TENANTS = 64
"""Whose turns' places and vectors a searcher remembers."""
RERANKED = 50
"""Candidates that a reranker reads; more where more hits are asked for."""
VECTORS_AT_ONCE = 4096
"""Turns whose vectors are read from the store before they join the others."""
_COMMON_SHARE = 0.25
"""A word of more turns than this tells a vector nothing: names, terms of address."""
_FEW_TURNS = 20
_CANDIDATES = 200
"""Turns of the nearest vectors, and of the best words, that are compared where a store proposes."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is looked for."""

    query: str
    k: int = 5
    session: str | None = None
    since_unix_ns: int | None = None
    """Only turns that began then or later."""
    until_unix_ns: int | None = None
    """Only turns that began before."""
    min_relevance: float = 0.0
    """Leaves out turns of less; .5 asks for half of what the question says."""
    neighbours: bool = False
    """Whether each hit comes with the archived turns before and after it."""

    def __post_init__(self) -> None:
        """Look at the bounds.

        Raises:
            InvalidParameterError: the query is too long, or a number is out of bounds.
        """
        if len(self.query) > MAX_QUERY_CHARS:
            raise InvalidParameterError(
                "query", self.query, f"at most {MAX_QUERY_CHARS} characters"
            )
        if not 1 <= self.k <= MAX_HITS:
            raise InvalidParameterError("k", self.k, f"an integer from 1 to {MAX_HITS}")
        if not 0 <= self.min_relevance <= 1:
            raise InvalidParameterError("min_relevance", self.min_relevance, "a number from 0 to 1")
        for name in ("since_unix_ns", "until_unix_ns"):
            if not 0 <= (getattr(self, name) or 0) < 2**63:
                raise InvalidParameterError(name, getattr(self, name), "from 0 to 2**63 - 1")


@dataclass(frozen=True, slots=True)
class SearchHit:
    """An archived turn and how well it fits."""

    turn: StoredTurn
    score: float
    """What the order is by; comparable within one answer only."""
    relevance: float = 0.0
    """Which share of the question's information stands in the turn and around it, from 0 to 1."""
    highlights: tuple[tuple[Span, ...], ...] = ()
    """The words that were asked for, message by message."""
    before: StoredTurn | None = None
    """The archived turn before it in its session, where it was asked for."""
    after: StoredTurn | None = None


@dataclass(slots=True)
class _Remembered:
    """What a searcher knows of one tenant."""

    lock: Lock = field(default_factory=Lock)
    generation: int = -1
    corpus: Corpus = field(default_factory=Corpus)
    common: CommonWords = field(default_factory=CommonWords)
    matrix: VectorMatrix | None = None
    last_vectors: int = 0


class Searcher:
    """Searches of all tenants; any thread."""

    def __init__(
        self,
        *,
        embedder: Embedder | None = None,
        reranker: Reranker | None = None,
        now_unix_ns: Callable[[], int] = time.time_ns,
        on_failure: Callable[[str], None] = lambda _: None,
        max_tenants: int = MAX_TENANTS,
    ) -> None:
        """`on_failure` is told "embedder" or "reranker" when one fails."""
        self._embedder = embedder
        self._reranker = reranker
        self._now_unix_ns = now_unix_ns
        self._on_failure = on_failure
        self._max_tenants = max_tenants
        self._tenants: OrderedDict[str, _Remembered] = OrderedDict()
        self._lock = Lock()

    def search(self, archive: Archive, question: Question) -> list[SearchHit]:
        """The archived turns of one tenant that fit best, best first; blocks."""
        terms = query_terms(question.query)
        if not terms:
            return []
        known, corpus, common = self._refreshed(archive)
        frequencies = common.frequencies(terms, len(corpus), archive.frequencies)
        postings = archive.postings(telling_terms(terms, frequencies, len(corpus)))
        matches = match(corpus, terms, frequencies, postings)
        if self._embedder is not None:
            query = _dense_query(question.query, frequencies, len(corpus))
            matches = self._with_vectors(archive, known, matches, corpus, self._embedder, query)
        asked = time_asked_for(question.query, self._now_unix_ns())
        latest = asks_for_latest(question.query)
        matches = weighted_by_time(matches, corpus, asked, latest=latest)
        matches = _filtered(matches, corpus, question)
        return self._hits(archive, corpus, matches, question, frozenset(terms))

    def forget(self, tenant: str) -> None:
        """Let go of what is remembered of a tenant."""
        with self._lock:
            self._tenants.pop(tenant, None)

    def _refreshed(self, archive: Archive) -> tuple[_Remembered, Corpus, CommonWords]:
        with self._lock:
            known = self._tenants.setdefault(archive.tenant, _Remembered())
            self._tenants.move_to_end(archive.tenant)
            while len(self._tenants) > self._max_tenants:
                self._tenants.popitem(last=False)
        with known.lock:
            generation = archive.generation()
            if generation != known.generation:
                known.corpus, known.matrix, known.last_vectors = Corpus(), None, 0
                known.common, known.generation = CommonWords(), generation
            known.corpus = known.corpus.grown(archive.documents(after=known.corpus.last_doc))
            return known, known.corpus, known.common

    def _with_vectors(
        self,
        archive: Archive,
        known: _Remembered,
        matches: Matches,
        corpus: Corpus,
        embedder: Embedder,
        query: str,
    ) -> Matches:
        try:
            (vector,) = embedder.embed([query], is_query=True)
        except ModelUnavailableError as error:
            log.warning("searching without vectors: %s", error)
            self._on_failure("embedder")
            return matches
        proposed = archive.nearest(embedder.name, vector.tolist(), limit=_CANDIDATES)
        if proposed is None:
            matrix = _grown(archive, known, embedder)
        else:
            matrix = _of_candidates(archive, corpus, matches, embedder, proposed)
        nearness = matrix.nearness(vector, corpus.places, len(corpus))
        return fuse(matches, corpus, nearness, embedder.weight)

    def _hits(
        self,
        archive: Archive,
        corpus: Corpus,
        matches: Matches,
        question: Question,
        terms: frozenset[str],
    ) -> list[SearchHit]:
        limit = RERANKED if self._reranker is not None else 2 * question.k
        order = best(matches, corpus, max(limit, question.k))
        docs = corpus.docs[matches.places[order]].tolist()
        turns = archive.documents_turns(docs)
        found = [
            SearchHit(turns[doc], float(matches.scores[at]), float(matches.coverage[at]))
            for doc, at in zip(docs, order, strict=True)
            if doc in turns
        ]
        place_of = {turns[doc].archive_id: int(corpus.places[doc]) for doc in docs if doc in turns}
        found = self._reranked(question.query, found)
        words = [frozenset(words_of(text_of(hit.turn))) for hit in found]
        kept = diversified([hit.score for hit in found], words, question.k)
        return _told(archive, corpus, [found[each] for each in kept], place_of, question, terms)

    def _reranked(self, query: str, found: list[SearchHit]) -> list[SearchHit]:
        """In the order of both scores: one from 0 to its highest, one from its lowest, which is any."""
        if self._reranker is None or not found:
            return found
        try:
            judged = self._reranker.score(query, [text_of(hit.turn) for hit in found])
        except ModelUnavailableError as error:
            log.warning("searching without reranking: %s", error)
            self._on_failure("reranker")
            return found
        given = np.array(judged, dtype=np.float64)
        both = stretched(given - given.min()) + stretched(np.array([hit.score for hit in found]))
        ranked = [
            SearchHit(hit.turn, float(score), hit.relevance)
            for hit, score in zip(found, both, strict=True)
        ]
        return sorted(ranked, key=lambda hit: -hit.score)


def search(archive: Archive, query: str, k: int, session: str | None = None) -> list[SearchHit]:
    """One search by words alone, with nothing remembered; see `Searcher.search`.

    Raises:
        InvalidParameterError: the query is too long, or `k` is out of bounds.
    """
    return Searcher().search(archive, Question(query, k, session))


def _grown(archive: Archive, known: _Remembered, embedder: Embedder) -> VectorMatrix:
    """All of a tenant's vectors; new ones some at a time, since all are in memory once already."""
    with known.lock:
        matrix = known.matrix = known.matrix or VectorMatrix.empty(embedder.dimensions)
        rows = archive.vectors(embedder.name, after=known.last_vectors)
        while some := list(islice(rows, VECTORS_AT_ONCE)):
            matrix = known.matrix = matrix.grown(some)
            known.last_vectors = some[-1].number
        return matrix


def _of_candidates(
    archive: Archive,
    corpus: Corpus,
    matches: Matches,
    embedder: Embedder,
    proposed: Sequence[int],
) -> VectorMatrix:
    """The vectors of what a store proposes, of what the words fit best, and of the turns beside."""
    docs = np.array([doc for doc in proposed if doc <= corpus.last_doc], np.int64)
    spoken = matches.places[best(matches, corpus, _CANDIDATES)]
    places = np.concatenate([corpus.places[docs], spoken])
    places = np.unique(np.concatenate([places - 1, places, places + 1]))
    there = places[(places >= 0) & (places < len(corpus))]
    rows = archive.documents_vectors(embedder.name, corpus.docs[there].tolist())
    return VectorMatrix.empty(embedder.dimensions).grown(rows)


def _filtered(matches: Matches, corpus: Corpus, question: Question) -> Matches:
    keep = (matches.scores > 0) & (matches.coverage >= question.min_relevance)
    if question.session is not None:
        first, end = corpus.in_session(question.session)
        keep &= (matches.places >= first) & (matches.places < end)
    started = corpus.started_unix_ns[matches.places]
    if question.since_unix_ns is not None:
        keep &= started >= question.since_unix_ns
    if question.until_unix_ns is not None:
        keep &= started < question.until_unix_ns
    return chosen(matches, keep)


def _told(
    archive: Archive,
    corpus: Corpus,
    hits: Sequence[SearchHit],
    place_of: dict[str, int],
    question: Question,
    terms: frozenset[str],
) -> list[SearchHit]:
    """Hits with what a reader wants to see beside them."""
    beside: dict[str, list[int | None]] = {}
    if question.neighbours:
        for hit in hits:
            place = place_of[hit.turn.archive_id]
            beside[hit.turn.archive_id] = [corpus.beside(place, -1), corpus.beside(place, 1)]
    docs = {doc for pair in beside.values() for doc in pair if doc is not None}
    turns = archive.documents_turns(docs) if docs else {}
    told = []
    for hit in hits:
        before, after = beside.get(hit.turn.archive_id, (None, None))
        told.append(
            SearchHit(
                turn=hit.turn,
                score=hit.score,
                relevance=min(1.0, hit.relevance),
                highlights=tuple(spans_of(said.text, terms) for said in hit.turn.messages),
                before=None if before is None else turns.get(before),
                after=None if after is None else turns.get(after),
            )
        )
    return told


def _dense_query(query: str, frequencies: dict[str, int], num_turns: int) -> str:
    """The question without the words that are everywhere, such as the speakers' names."""
    if num_turns < _FEW_TURNS:
        return query
    telling = [
        word
        for word in words_of(query)
        if all(frequencies.get(term, 0) < _COMMON_SHARE * num_turns for term in terms_of(word))
    ]
    return " ".join(telling) or query
