"""From how well words fit and how near vectors are to one order of turns.

    score = words, from 0 to 1  +  the model's weight * vectors, from 0 to 1
            * (1 + RECENCY_WEIGHT * e^(-age / 30 days), where the latest is asked for)
            * (1 + DATE_WEIGHT, for turns of the time that was asked for)

Both parts are stretched from their lowest to their highest over the tenant's
turns (min-max), which keeps how far the best lies ahead; ranks would lose it.
A vector counts a little for the turns beside it, as words do: the answer may
stand next to what is near the question.
Age counts from the newest turn, so that an order does not change by waiting,
and is bounded: it can never put a turn before one that fits clearly better.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from shepherd_memory.retrieval.corpus import Corpus, Integers
from shepherd_memory.retrieval.dates import TimeRange
from shepherd_memory.retrieval.lexical import Floats, Matches

NEIGHBOUR_WEIGHT = 0.1
"""Of the vectors one turn away; less than a word's, since what is near is told in passing too."""
RECENCY_WEIGHT = 0.2
DATE_WEIGHT = 0.1
SIMILARITY_WEIGHT = 0.1
"""What a turn loses that repeats one before it (maximal marginal relevance)."""
_MONTH_NS = 30 * 86_400 * 10**9

Nearness = npt.NDArray[np.float32]
"""Cosines of all places, `[num_documents]`."""


def fuse(matches: Matches, corpus: Corpus, nearness: Nearness, weight: float) -> Matches:
    """Words and vectors as one; `nearness` is of all places, -1 where there is no vector."""
    present = nearness > -1
    if not present.any():
        return matches
    around = _with_neighbours(np.where(present, nearness, 0.0), corpus)
    lowest, highest = around[present].min(), around[present].max()
    # Where all are as near, all are nearest.
    near = (around - lowest) / (highest - lowest) if highest > lowest else present
    scores = weight * np.where(present, near, 0.0).astype(np.float64)
    coverage = np.maximum(nearness, 0.0).astype(np.float64)
    scores[matches.places] += stretched(matches.scores)
    coverage[matches.places] = np.maximum(coverage[matches.places], matches.coverage)
    return Matches(np.arange(len(nearness)), scores, coverage)


def _with_neighbours(nearness: Nearness, corpus: Corpus) -> Nearness:
    places = np.arange(len(nearness))
    share = NEIGHBOUR_WEIGHT * corpus.are_neighbours(places[:-1], places[1:])
    total = nearness.copy()
    total[1:] += share * nearness[:-1]
    total[:-1] += share * nearness[1:]
    return total


def stretched(values: Floats) -> Floats:
    """From 0 to the highest, as 0 to 1."""
    return values / max(float(values.max(initial=0.0)), 1e-9)


def weighted_by_time(
    matches: Matches, corpus: Corpus, asked: TimeRange | None, *, latest: bool
) -> Matches:
    """Turns of the time that was asked for, or new ones, a little further ahead."""
    started = corpus.started_unix_ns[matches.places]
    factors = np.ones(len(started))
    if latest:
        newest = int(corpus.started_unix_ns.max(initial=0))
        factors += RECENCY_WEIGHT * np.exp(-(newest - started) / _MONTH_NS)
    if asked is not None:
        inside = (started >= asked.since_unix_ns) & (started < asked.until_unix_ns)
        factors *= 1 + DATE_WEIGHT * inside
    return Matches(matches.places, matches.scores * factors, matches.coverage)


def chosen(matches: Matches, keep: npt.NDArray[np.bool_]) -> Matches:
    """Some of the places."""
    return Matches(matches.places[keep], matches.scores[keep], matches.coverage[keep])


def best(matches: Matches, corpus: Corpus, limit: int) -> Integers:
    """Which of the matches come first, the newer among equals; indexes into `matches`."""
    size = len(matches.scores)
    if size > limit:
        kept = np.flatnonzero(matches.scores >= np.partition(matches.scores, -limit)[-limit])
    else:
        kept = np.arange(size)
    places = matches.places[kept]
    order = np.lexsort(
        (-corpus.docs[places], -corpus.started_unix_ns[places], -matches.scores[kept])
    )
    return kept[order][:limit]


def diversified(scores: Sequence[float], words: Sequence[frozenset[str]], limit: int) -> list[int]:
    """The `limit` that tell most together, as indexes in the order of `scores`, which falls.

    Source: Carbonell and Goldstein, "The Use of MMR".
    """
    left = list(range(len(scores)))
    if len(left) <= limit or not scores[0]:
        return left[:limit]
    repeats = [0.0] * len(left)
    taken: list[int] = []
    while len(taken) < limit:
        pick = max(left, key=lambda i: scores[i] / scores[0] - SIMILARITY_WEIGHT * repeats[i])
        left.remove(pick)
        taken.append(pick)
        for other in left:
            repeats[other] = max(repeats[other], _overlap(words[pick], words[other]))
    return sorted(taken)


def _overlap(one: frozenset[str], other: frozenset[str]) -> float:
    """Which share of the words of both stands in both."""
    shared = len(one & other)
    return shared / max(len(one) + len(other) - shared, 1)
