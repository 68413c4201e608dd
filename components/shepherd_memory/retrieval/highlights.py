"""Which words of a text a question asked for."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from shepherd_memory.analysis import terms_of

MAX_SPANS = 64
"""Of one text."""

_WORD = re.compile(r"[^\W_]+")


class Span(NamedTuple):
    """Characters `start` to before `end` of a text."""

    start: int
    end: int


def spans_of(text: str, terms: frozenset[str]) -> tuple[Span, ...]:
    """The words with one of the terms, in order; neighbouring ones are not joined."""
    found = []
    for word in _WORD.finditer(text):
        if not terms.isdisjoint(_terms_of_spelling(word[0])):
            found.append(Span(*word.span()))
            if len(found) == MAX_SPANS:
                break
    return tuple(found)


@lru_cache(maxsize=65536)
def _terms_of_spelling(word: str) -> tuple[str, ...]:
    return tuple(terms_of(word))
