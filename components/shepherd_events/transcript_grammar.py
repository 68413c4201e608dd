r"""The literal text that stands between the contents of messages, as a graph.

Its states are the roles, and `START` before the first message; an edge is the
literal that leads from the content of one message to the content of the next.
For ChatML:

    START     --  <|im_start|>user\n                  -->  user
    user      --  <|im_end|>\n<|im_start|>assistant\n -->  assistant
    assistant --  <|im_end|>\n<|im_start|>user\n      -->  user

Reading takes, from each content, the earliest edge that leads out of it, the
longest one where several begin together.  A literal may have a *hole* where each
conversation says something else, such as the id of the call that a tool answers;
no added token is in it.

Knows no template: `grammar_learning.py` finds the edges.  Works on marked bytes
(`token_bytes.py`), so that text which merely spells an added token is never
taken for one.  Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from shepherd_events.token_bytes import MARK_SIZE, first_mark, without_marks

START = "start"
RAW = "raw"
"""The role of text that no edge explains."""


Literal = tuple[bytes, ...]
"""What stands between two contents; two parts where there is a hole between them."""

_HOLE = rb"[^\xff]*?"
"""Behind an added token: up to the next one."""
_SHORT_HOLE = rb"[^\xff\r\n]{1,128}?"
"""Behind text that might also stand in a content."""


@dataclass(frozen=True, slots=True)
class Edge:
    """From one content to the next."""

    role: str
    closing: int
    """Bytes of the literal that end the earlier message, the rest opens the next one.

    Counted from the literal's start; negative or `WHOLE` counts from its end.
    """


WHOLE = -(1 << 30)
"""The closing of an edge that opens nothing."""


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
        self, edges: dict[str, dict[Literal, Edge]], closings: dict[str, tuple[bytes, ...]]
    ) -> None:
        self._closings = closings
        self._leaving: dict[str, list[Edge]] = {}
        self._next: dict[str, re.Pattern[bytes]] = {}
        for state, leaving in edges.items():
            longest_first = sorted(leaving, key=lambda literal: -sum(map(len, literal)))
            self._leaving[state] = [leaving[literal] for literal in longest_first]
            if longest_first:
                self._next[state] = _any_of(longest_first)

    def parse(self, marked: bytes) -> list[Part]:
        """Parts in order, at least one; what precedes the first known marker is `RAW`."""
        parts: list[Part] = []
        state, start, text_start = START, 0, 0
        while (pattern := self._next.get(state)) and (found := pattern.search(marked, text_start)):
            parts.append(_part(state, start, text_start, found.start()))
            assert found.lastindex is not None
            edge = self._leaving[state][found.lastindex - 1]
            state, start, text_start = edge.role, _boundary(found, edge), found.end()
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


def _any_of(longest_first: Iterable[Literal]) -> re.Pattern[bytes]:
    """Matches any of the literals; the number of its group says which."""
    return re.compile(b"|".join(b"(" + _expression(each) + b")" for each in longest_first))


def _expression(literal: Literal) -> bytes:
    hole = _HOLE if first_mark(literal[0]) >= 0 else _SHORT_HOLE
    return hole.join(map(re.escape, literal))


def _boundary(found: re.Match[bytes], edge: Edge) -> int:
    """Where the earlier message ends."""
    if edge.closing == WHOLE:
        return found.end()
    return (found.start() if edge.closing >= 0 else found.end()) + edge.closing


def _part(state: str, start: int, text_start: int, text_end: int) -> Part:
    return Part(RAW if state == START else state, start, text_start, text_end)


def _without_empty_preamble(parts: list[Part], marked: bytes) -> list[Part]:
    """Added tokens before the first message, such as BOS, belong to it."""
    first, *others = parts
    if not others or without_marks(marked[: first.text_end]):
        return parts
    opening = others[0]
    return [Part(opening.role, 0, opening.text_start, opening.text_end), *others[1:]]
