"""What a chat template puts between contents, learned from what it renders.

Conversations of unmistakable contents are rendered, and what stands between two
contents is an edge of the grammar (`transcript_grammar.py`).  Each is rendered
twice, with another clock and other tools: what differs is no part of a marker.

A template is given up (`learn` returns None) when user and assistant share a
marker, or only white space separates them.  Of the optional roles, system and
tool, one is left out when the template gives it no marker of its own: its text
then reads as part of the message that the model sees.

Knows neither tokenizer nor template engine: both are behind `Render`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise, product

from shepherd_events.chat_template import Conversation
from shepherd_events.token_bytes import first_mark, without_cut_mark
from shepherd_events.transcript_grammar import START, Edge, Grammar

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
    edges = learned.settle()
    if edges is None:
        return None
    return _grammar(edges, learned.ends, tuple(eos_marks))


@dataclass(frozen=True, slots=True)
class _Seen:
    """One literal as two renderings show it, which differ in clock and tools alone."""

    one: bytes
    other: bytes

    def ending(self) -> bytes | None:
        """The literal; where it varies, what follows the variation from an added token on."""
        if self.one == self.other:
            return self.one
        same = _common_prefix(self.one[::-1], self.other[::-1])[::-1]
        begin = first_mark(same)
        return same[begin:] if begin >= 0 else None

    def beginning(self) -> bytes:
        """The literal up to where it begins to vary."""
        return without_cut_mark(_common_prefix(self.one, self.other))


class _Learned:
    """Everything that was seen, contradictions included."""

    def __init__(self) -> None:
        self.edges: dict[str, dict[bytes, set[str]]] = defaultdict(lambda: defaultdict(set))
        self.ends: dict[str, set[bytes]] = defaultdict(set)
        self._varied: set[tuple[str, str]] = set()

    def add(self, shape: tuple[str, ...], answer: bool, seen: list[_Seen]) -> None:
        """Take in one rendered conversation."""
        first, *between, last = seen
        opening = first.beginning() if shape[0] == "system" else first.ending()
        self._add_edge(START, opening, shape[0])
        for (source, target), literal in zip(pairwise(shape), between, strict=True):
            self._add_edge(source, literal.ending(), target)
        if answer:
            self._add_generation_prompt(shape[-1], last.ending())
        elif last.one == last.other:
            self.ends[shape[-1]].add(last.one)

    def settle(self) -> dict[str, dict[bytes, str]] | None:
        """One role per literal, or None; a change of speaker that is never clear says nothing."""
        for source, target in self._varied:
            if not any(target in targets for targets in self.edges[source].values()):
                self.edges[source][b""].add(target)
        return _settle(self.edges)

    def _add_edge(self, source: str, literal: bytes | None, target: str) -> None:
        if literal is None:
            self._varied.add((source, target))
        else:
            self.edges[source][literal].add(target)

    def _add_generation_prompt(self, source: str, literal: bytes | None) -> None:
        if literal is None or _says_nothing(literal):
            return
        if source == "user" or literal not in self.ends[source]:
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
    contents = [_sentinel(place).encode() for place in range(num_contents)]
    if marked is None or any(marked.count(content) != 1 for content in contents):
        return None
    literals = []
    for content in contents:
        literal, found, marked = marked.partition(content)
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
