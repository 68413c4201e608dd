"""The part of a text in which what was asked for stands, with the words marked.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from shepherd_memory.retrieval.highlights import Span

MAX_CHARS = 600
_AHEAD = 120
"""Characters ahead of the first word that was asked for."""


class Piece(NamedTuple):
    """A stretch of text."""

    text: str
    is_marked: bool


def excerpt(text: str, spans: Sequence[Span], max_chars: int = MAX_CHARS) -> list[Piece]:
    """At most `max_chars` of a text around its first span; what is left out is an ellipsis."""
    start = 0
    if len(text) > max_chars and spans:
        start = max(0, min(spans[0].start - _AHEAD, len(text) - max_chars))
    end = min(len(text), start + max_chars)
    pieces = [Piece("…", False)] if start else []
    at = start
    for span in spans:
        if span.start < at or span.end > end:
            continue
        pieces += [Piece(text[at : span.start], False), Piece(text[span.start : span.end], True)]
        at = span.end
    pieces.append(Piece(text[at:end], False))
    if end < len(text):
        pieces.append(Piece("…", False))
    return [piece for piece in pieces if piece.text]
