"""From a question to archived turns.

Words are matched by stem, ranked by BM25 with this tenant's statistics; stop
words are dropped unless nothing else was asked.  Nothing in a query is syntax.
Age only decides between equal scores, in favour of the newer turn.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

from shepherd_memory.analysis import query_terms
from shepherd_memory.archive.protocol import Archive
from shepherd_memory.archive.records import StoredTurn
from shepherd_memory.errors import InvalidParameterError

MAX_QUERY_CHARS = 4096
MAX_HITS = 100


@dataclass(frozen=True, slots=True)
class SearchHit:
    """An archived turn and how well it fits."""

    turn: StoredTurn
    score: float
    """Higher is better; comparable within one answer only."""


def search(archive: Archive, query: str, k: int, session: str | None = None) -> list[SearchHit]:
    """The at most `k` archived turns of one tenant that fit best, best first; blocks.

    Raises:
        InvalidParameterError: the query is too long, or `k` is out of bounds.
    """
    if len(query) > MAX_QUERY_CHARS:
        raise InvalidParameterError("query", query, f"at most {MAX_QUERY_CHARS} characters")
    if not 1 <= k <= MAX_HITS:
        raise InvalidParameterError("k", k, f"an integer from 1 to {MAX_HITS}")
    terms = query_terms(query)
    known = {document.doc: document for document in archive.documents(after=0)}
    mean = sum(document.num_terms for document in known.values()) / max(len(known), 1)
    frequencies = archive.frequencies(terms)
    scores: defaultdict[int, float] = defaultdict(float)
    for term, doc, occurrences in archive.postings(terms):
        if doc in known and session in {None, known[doc].session}:
            weight = math.log1p((len(known) - frequencies[term] + 0.5) / (frequencies[term] + 0.5))
            scores[doc] += (
                weight
                * occurrences
                / (occurrences + 0.9 * (0.6 + 0.4 * known[doc].num_terms / mean))
            )
    best = sorted(
        scores, key=lambda doc: (scores[doc], known[doc].started_unix_ns, doc), reverse=True
    )[:k]
    turns = archive.documents_turns(best)
    return [SearchHit(turns[doc], scores[doc]) for doc in best if doc in turns]
