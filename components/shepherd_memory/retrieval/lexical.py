"""How well words fit: BM25 over a turn and, at less weight, the turns around it.

In a conversation the question stands in one turn and the answer in the next.
So a term that stands in a neighbour counts as standing here, at .4 of its
weight, and two turns away at .3; each term saturates over this window, so that
a turn whose surroundings hold all of the question beats one that repeats a
single word.

    turn i-2   i-1    i    i+1   i+2
       .3      .4     1     .4    .3

Source: BM25 by Robertson and Zaragoza, "The Probabilistic Relevance Framework";
k1 and b as Anserini has them for short texts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shepherd_memory.archive.records import Postings
from shepherd_memory.retrieval.corpus import Corpus, Integers

Floats = npt.NDArray[np.float64]

K1 = 0.9
B = 0.4
NEIGHBOUR_WEIGHTS = (0.4, 0.3)
"""Of the turns one and two places away."""
MAX_POSTINGS = 50_000
"""Of one question, and half as many as there are documents; commoner terms are left out."""
FEW_DOCUMENTS = 500
"""So many postings are always looked up."""


@dataclass(frozen=True, slots=True)
class Matches:
    """The places where something of a question stands, or beside which; ascending."""

    places: Integers
    scores: Floats
    coverage: Floats
    """Which share of the question's information stands there, from 0 to 1."""


def telling_terms(
    terms: Sequence[str], frequencies: Mapping[str, int], num_documents: int
) -> list[str]:
    """The terms worth looking up, rarest first."""
    chosen: list[str] = []
    budget = min(MAX_POSTINGS, max(FEW_DOCUMENTS, num_documents // 2))
    for term in sorted(
        (term for term in terms if term in frequencies), key=frequencies.__getitem__
    ):
        budget -= frequencies[term]
        if chosen and budget < 0:
            break
        chosen.append(term)
    return chosen


def match(
    corpus: Corpus,
    terms: Sequence[str],
    frequencies: Mapping[str, int],
    postings: Iterable[Postings],
) -> Matches:
    """Score every place around which a term stands."""
    by_term = _by_term(corpus, postings)
    places = _with_neighbours([places for places, _ in by_term.values()], len(corpus))
    beside = _beside(corpus, places)
    scores, coverage = np.zeros(len(places)), np.zeros(len(places))
    total = 0.0
    for term in terms:
        frequency = min(frequencies.get(term, 0), len(corpus))
        weight = math.log1p((len(corpus) - frequency + 0.5) / (frequency + 0.5))
        total += weight
        if term in by_term:
            here = np.zeros(len(places))
            at, occurrences = by_term[term]
            here[np.searchsorted(places, at)] = occurrences
            around = _around(here, beside)
            scores += weight * (K1 + 1) * around / (around + K1)
            coverage += weight * np.minimum(around, 1.0)
    return Matches(places, scores, coverage / total if total else coverage)


def _by_term(corpus: Corpus, postings: Iterable[Postings]) -> dict[str, tuple[Integers, Floats]]:
    """Places and occurrences per unit of length, by term; what the corpus does not know is left out."""
    found = {}
    mean = corpus.mean_terms
    for term, docs, occurrences in postings:
        numbers = np.frombuffer(docs, dtype=np.int64)
        places = np.where(
            numbers <= corpus.last_doc, corpus.places[np.minimum(numbers, corpus.last_doc)], -1
        )
        known = places >= 0
        lengths = 1 - B + B * corpus.num_terms[places[known]] / mean
        found[term] = places[known], np.frombuffer(occurrences, np.int64)[known] / lengths
    return found


def _with_neighbours(found: Iterable[Integers], size: int) -> Integers:
    """All places that were found and those around them, ascending, each once."""
    reach = len(NEIGHBOUR_WEIGHTS)
    marked = np.zeros(size + 2 * reach, dtype=np.bool_)
    for places in found:
        for step in range(2 * reach + 1):
            marked[places + step] = True
    return np.flatnonzero(marked[reach : reach + size])


def _beside(corpus: Corpus, places: Integers) -> list[npt.NDArray[np.bool_]]:
    """By distance from 1, which places are in the window of the one so far behind in the array.

    Wherever something stands, the places around it are in `places` as well: those a step away
    are neighbours in the array.
    """
    pairs = [(places[:-step], places[step:]) for step in range(1, 1 + len(NEIGHBOUR_WEIGHTS))]
    return [
        (second - first == step) & corpus.are_neighbours(first, second)
        for step, (first, second) in enumerate(pairs, start=1)
    ]


def _around(here: Floats, beside: Sequence[npt.NDArray[np.bool_]]) -> Floats:
    """What stands in each place's window, by weight."""
    total = here.copy()
    for step, (weight, near) in enumerate(zip(NEIGHBOUR_WEIGHTS, beside, strict=True), start=1):
        total[step:] += weight * here[:-step] * near
        total[:-step] += weight * here[step:] * near
    return total
