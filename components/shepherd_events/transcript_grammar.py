r"""The literal text that stands between the contents of messages, as a graph.

Its states are the roles, and `START` before the first message; an edge is the
literal that leads from the content of one message to the content of the next.
For ChatML:

    START     --  <|im_start|>user\n                  -->  user
    user      --  <|im_end|>\n<|im_start|>assistant\n -->  assistant
    assistant --  <|im_end|>\n<|im_start|>user\n      -->  user

Reading takes, from each content, the earliest edge that leads out of it, the
longest one where several begin together.  Knows no template: `grammar_learning.py`
finds the edges.  Works on marked bytes (`token_bytes.py`), so that text which
merely spells an added token is never taken for one.  Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from shepherd_events.token_bytes import MARK_SIZE, first_mark, without_marks

START = "start"
RAW = "raw"
"""The role of text that no edge explains."""


@dataclass(frozen=True, slots=True)
class Edge:
    """From one content to the next."""

    role: str
    closing: int
    """Leading bytes of the literal that end the earlier message; the rest opens the next."""


@dataclass(frozen=True, slots=True)
class Part:
    """One message, as positions in bytes."""

    role: str
    start: int
    """Where its opening marker begins, which is where the part before it ends."""
    text_start: int
    text_end: int


class Grammar:
    """Reads marked bytes as messages."""

    def __init__(
        self, edges: dict[str, dict[bytes, Edge]], closings: dict[str, tuple[bytes, ...]]
    ) -> None:
        self._edges = edges
        self._closings = closings
        self._next = {state: _any_of(leaving) for state, leaving in edges.items() if leaving}

    def parse(self, marked: bytes) -> list[Part]:
        """Parts in order, at least one; what precedes the first known marker is `RAW`."""
        parts: list[Part] = []
        state, start, text_start = START, 0, 0
        while (pattern := self._next.get(state)) and (found := pattern.search(marked, text_start)):
            parts.append(_part(state, start, text_start, found.start()))
            edge = self._edges[state][found[0]]
            state, start, text_start = edge.role, found.start() + edge.closing, found.end()
        parts.append(_part(state, start, text_start, self._text_end(state, marked, text_start)))
        return _without_empty_preamble(parts, marked)

    def _text_end(self, state: str, marked: bytes, text_start: int) -> int:
        """Where the last content ends: before a closing marker, be it cut after its first token."""
        closed = max(
            (
                size
                for closing in self._closings.get(state, ())
                for size in range(_shortest_closing(closing), len(closing) + 1)
                if marked.endswith(closing[:size], text_start)
            ),
            default=0,
        )
        return len(marked) - closed


def _shortest_closing(closing: bytes) -> int:
    """Up to and with its first added token; a closing marker of plain text must be whole."""
    begin = first_mark(closing)
    return begin + MARK_SIZE if begin >= 0 else max(len(closing), 1)


def _any_of(leaving: Iterable[bytes]) -> re.Pattern[bytes]:
    longest_first = sorted(leaving, key=len, reverse=True)
    return re.compile(b"|".join(map(re.escape, longest_first)))


def _part(state: str, start: int, text_start: int, text_end: int) -> Part:
    return Part(RAW if state == START else state, start, text_start, text_end)


def _without_empty_preamble(parts: list[Part], marked: bytes) -> list[Part]:
    """Added tokens before the first message, such as BOS, belong to it."""
    first, *others = parts
    if not others or without_marks(marked[: first.text_end]):
        return parts
    opening = others[0]
    return [Part(opening.role, 0, opening.text_start, opening.text_end), *others[1:]]
