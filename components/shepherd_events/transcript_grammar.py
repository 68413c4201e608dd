r"""The literal text that a chat template puts between the contents of messages.

A grammar is a graph.  Its states are the roles, and `START` before the first
message; an edge is the literal that leads from the content of one message to the
content of the next.  For ChatML:

    START     --  <|im_start|>user\n                  -->  user
    user      --  <|im_end|>\n<|im_start|>assistant\n -->  assistant
    assistant --  <|im_end|>\n<|im_start|>user\n      -->  user

Edges are not written down but learned: conversations of unmistakable contents
are rendered, and what stands between two contents is the edge.  Reading takes,
from each content, the earliest edge that leads out of it, the longest one where
several begin together.

A template is given up (`learn` returns None) when a literal could belong to the
user as well as to the assistant, or is only white space.  Of the optional roles,
system and tool, one is left out when the template gives it no marker of its own:
its text then reads as part of the message that the model sees.

Works on marked bytes (`token_bytes.py`), so that text which merely spells an
added token is never taken for one.  Pure.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise, product

from shepherd_events.chat_template import Conversation
from shepherd_events.token_bytes import MARK_SIZE, first_mark, without_cut_mark, without_marks

START = "start"
RAW = "raw"
"""The role of text that no edge explains."""

_CORE = frozenset(("user", "assistant"))
_OPTIONAL = frozenset(("system", "tool"))
_ANSWERED = frozenset(("user", "tool"))
"""After these a generation prompt makes sense."""

_SHAPES = tuple(
    tuple(shape.split())
    for shape in (
        "user",
        "system",
        "system user",
        "user assistant",
        "system user assistant",
        "user assistant user assistant",
        "system user assistant user assistant",
        "user user assistant assistant",
        "user assistant system",
        "user assistant system user",
        "user system assistant",
        "system assistant",
        "assistant user",
        "user assistant tool",
        "user assistant tool assistant",
        "user assistant tool tool assistant",
        "user assistant tool user",
    )
)
"""Roles of the conversations to learn from; those that a template rejects teach nothing."""

_CLOCKS = (
    datetime(1987, 2, 1, 3, 4, 5, tzinfo=UTC),
    datetime(2046, 11, 29, 16, 57, 38, tzinfo=UTC),
)
"""Two moments that differ in every field: text that changes with them is no literal."""

Render = Callable[[Conversation], bytes | None]
"""A conversation as the marked bytes of its tokens; None where the template rejects it."""


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


def learn(renders: Iterable[Render], eos_marks: Iterable[bytes]) -> Grammar | None:
    """The grammar of a model's templates, or None when user and assistant cannot be told apart.

    `eos_marks` may end an answer in place of the template's own marker.
    """
    learned = _Learned()
    for render, shape, tools in product(renders, _SHAPES, (False, True)):
        for answer in (False, True)[: 1 + (shape[-1] in _ANSWERED)]:
            one, other = (
                _literals(render(_probe(shape, answer, tools, world)), len(shape))
                for world in range(2)
            )
            if one and other:
                learned.add(shape, answer, [_Seen(*pair) for pair in zip(one, other, strict=True)])
    edges = _settle(learned.edges)
    if edges is None:
        return None
    return _grammar(edges, learned.ends, tuple(eos_marks))


@dataclass(frozen=True, slots=True)
class _Seen:
    """One literal as two renderings show it, which differ in clock and tools alone."""

    one: bytes
    other: bytes

    def ending(self) -> bytes:
        """The literal; where it varies, what follows the variation, from a marker on."""
        if self.one == self.other:
            return self.one
        same = _common_prefix(self.one[::-1], self.other[::-1])[::-1]
        begin = first_mark(same)
        return same[begin:] if begin >= 0 else b""

    def beginning(self) -> bytes:
        """The literal up to where it begins to vary."""
        return without_cut_mark(_common_prefix(self.one, self.other))


class _Learned:
    """Everything that was seen, contradictions included."""

    def __init__(self) -> None:
        self.edges: dict[str, dict[bytes, set[str]]] = defaultdict(lambda: defaultdict(set))
        self.ends: dict[str, set[bytes]] = defaultdict(set)

    def add(self, shape: tuple[str, ...], answer: bool, seen: list[_Seen]) -> None:
        """Take in one rendered conversation."""
        first, *between, last = seen
        opening = first.beginning() if shape[0] == "system" else first.ending()
        self.edges[START][opening].add(shape[0])
        for (source, target), literal in zip(pairwise(shape), between, strict=True):
            self.edges[source][literal.ending()].add(target)
        if answer:
            self._add_generation_prompt(shape[-1], last.ending())
        elif last.one == last.other:
            self.ends[shape[-1]].add(last.one)

    def _add_generation_prompt(self, source: str, literal: bytes) -> None:
        told_from_an_end = source == "user" or literal not in self.ends[source]
        if told_from_an_end and not _says_nothing(literal):
            self.edges[source][literal].add("assistant")


def _probe(shape: tuple[str, ...], answer: bool, tools: bool, world: int) -> Conversation:
    messages = tuple(
        {"role": role, "content": _sentinel(place)}
        | ({"tool_call_id": "call00001", "name": "find"} if role == "tool" else {})
        for place, role in enumerate(shape)
    )
    name = ("find", "look")[world]
    parameters = {"type": "object", "properties": {name: {"type": "string", "description": name}}}
    function = {"name": name, "description": name, "parameters": parameters}
    tool = {"type": "function", "function": function}
    return Conversation(messages, answer, (tool,) if tools else (), _CLOCKS[world])


def _sentinel(place: int) -> str:
    """A content that no template contains and every tokenizer keeps."""
    return f"qzx{'abcdefgh'[place]}xzq"


def _literals(marked: bytes | None, num_contents: int) -> list[bytes] | None:
    """What stands around the contents; None unless each is there once and in its place."""
    if marked is None:
        return None
    literals = []
    for place in range(num_contents):
        if marked.count(_sentinel(place).encode()) > 1:
            return None
        literal, found, marked = marked.partition(_sentinel(place).encode())
        if not found:
            return None
        literals.append(literal)
    return [*literals, marked]


def _settle(seen: dict[str, dict[bytes, set[str]]]) -> dict[str, dict[bytes, str]] | None:
    """One role per literal, without the optional roles that cannot be told apart."""
    edges: dict[str, dict[bytes, str]] = defaultdict(dict)
    unmarked: set[str] = set()
    for source, literal, targets in _flat(seen):
        told_apart = targets & _CORE or targets
        if not _says_nothing(literal) and len(told_apart) == 1:
            edges[source][literal] = min(told_apart)
        elif source in _OPTIONAL:
            unmarked.add(source)
        elif targets | {source} >= _CORE:
            return None
        elif source != START:
            unmarked |= targets & _OPTIONAL
    edges = {
        source: {literal: role for literal, role in leaving.items() if role not in unmarked}
        for source, leaving in edges.items()
        if source not in unmarked
    }
    if "assistant" not in edges.get("user", {}).values():
        return None
    return _without_default_system(_without_unreachable(edges))


def _flat(
    seen: dict[str, dict[bytes, set[str]]],
) -> Iterator[tuple[str, bytes, set[str]]]:
    for source, leaving in seen.items():
        for literal, targets in leaving.items():
            yield source, literal, targets


def _says_nothing(literal: bytes) -> bool:
    return not literal.strip()


def _without_unreachable(edges: dict[str, dict[bytes, str]]) -> dict[str, dict[bytes, str]]:
    entered = {START}.union(*(leaving.values() for leaving in edges.values()))
    return {source: leaving for source, leaving in edges.items() if source in entered}


def _without_default_system(edges: dict[str, dict[bytes, str]]) -> dict[str, dict[bytes, str]]:
    """Without openings that contain a whole system message: it shall be read as one."""
    opening = edges.get(START, {})
    system = [literal for literal, role in opening.items() if role == "system"]

    def contains_system(literal: bytes, role: str) -> bool:
        return any(
            literal.startswith(begin)
            and literal.endswith(end)
            and len(literal) > len(begin) + len(end)
            for begin in system
            for end, target in edges.get("system", {}).items()
            if target == role
        )

    kept = {
        literal: role for literal, role in opening.items() if not contains_system(literal, role)
    }
    return edges | {START: kept}


def _grammar(
    edges: dict[str, dict[bytes, str]], ends: dict[str, set[bytes]], eos_marks: tuple[bytes, ...]
) -> Grammar:
    any_end = set[bytes]().union(*ends.values())
    states: dict[str, dict[bytes, Edge]] = {
        source: {
            literal: Edge(role, _closing_size(literal, ends.get(source) or any_end))
            for literal, role in leaving.items()
        }
        for source, leaving in edges.items()
    }
    states[START] = _anywhere(states) | states.get(START, {})
    closings = {
        role: (*ends.get(role, ()), *edges.get(role, ()), *eos_marks)
        for role in ("system", "user", "assistant", "tool")
    }
    return Grammar(states, closings)


def _anywhere(states: dict[str, dict[bytes, Edge]]) -> dict[bytes, Edge]:
    """The edges that mean the same wherever they stand, to find the way into unknown text."""
    edges: dict[bytes, list[Edge]] = defaultdict(list)
    for leaving in states.values():
        for literal, edge in leaving.items():
            edges[literal].append(edge)
    return {
        literal: same[0]
        for literal, same in edges.items()
        if len({edge.role for edge in same}) == 1
    }


def _closing_size(literal: bytes, ends: set[bytes]) -> int:
    return max((len(without_cut_mark(_common_prefix(literal, end))) for end in ends), default=0)


def _common_prefix(one: bytes, other: bytes) -> bytes:
    size = next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
    return one[:size]


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
