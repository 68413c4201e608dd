"""What a chat template puts between contents, learned from what it renders.

Conversations of unmistakable contents are rendered (`template_probes.py`), and
what stands between two contents is an edge of the grammar
(`transcript_grammar.py`).  Each is rendered in two worlds: where they differ is no
part of a marker, though a marker may go on behind it.

A template is given up (`learn` returns None) when user and assistant share a
marker, or only white space separates them.  Of the optional roles, system, tool
and reasoning, one is left out when the template gives it no marker of its own:
its text then reads as part of the message that the model sees.

Knows neither tokenizer nor template engine: both are behind `Render`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise, product

from shepherd_events.chat_template import Conversation
from shepherd_events.reasoning_edges import add_reasoning
from shepherd_events.template_probes import Probe, content, probes
from shepherd_events.token_bytes import (
    first_mark,
    up_to_last_mark,
    without_cut_mark,
    without_mark_end,
)
from shepherd_events.transcript_grammar import START, WHOLE, Edge, Grammar, Literal

_CORE = frozenset(("user", "assistant"))
_OPTIONAL = frozenset(("system", "tool", "reasoning"))

_LONGEST_ID = 16
"""Bytes of a name or id that a marker may go on behind, where no added token comes before it."""

Render = Callable[[Conversation], bytes | None]
"""A conversation as the marked bytes of its tokens; None where the template rejects it."""

Edges = dict[str, dict[Literal, str]]
"""By source: the literals that lead to a role."""


def learn(
    renders: Iterable[Render], eos_marks: Iterable[bytes], spelled: Callable[[str], bytes]
) -> Grammar | None:
    """The grammar of a model's templates, or None when user and assistant cannot be told apart.

    `eos_marks` may end an answer in place of the template's own marker; `spelled` gives the
    marked bytes of a text inside another.
    """
    learned = _Learned()
    known_renders = list(renders)
    for render, probe in product(known_renders, probes()):
        one, other = (_literals(render(world), len(probe.roles)) for world in probe.worlds)
        if one and other:
            learned.add(probe, [_Seen(*pair) for pair in zip(one, other, strict=True)])
    edges = learned.settle()
    if edges is None:
        return None
    if "reasoning" not in edges:
        edges = add_reasoning(edges, known_renders, spelled)
    return _grammar(edges, learned.ends, tuple(eos_marks))


@dataclass(frozen=True, slots=True)
class _Seen:
    """One literal as two renderings show it."""

    one: bytes
    other: bytes

    def literal(self) -> Literal | None:
        """The literal, with a hole if it goes on behind what varies; None where that is not clear."""
        if self.one == self.other:
            return (self.one,)
        head, tail = self.beginning(), self._tail()
        varying = [each[len(head) : len(each) - len(tail)] for each in (self.one, self.other)]
        is_bounded = first_mark(head) >= 0 or max(map(len, varying)) <= _LONGEST_ID
        has_hole = all(each and first_mark(each) < 0 for each in varying)
        is_seen = first_mark(tail) >= 0 or self._is_quoted(head, tail, varying)
        if not has_hole or not is_bounded or not is_seen or _says_nothing((head,)):
            return self.ending()
        if max(map(len, varying)) > _LONGEST_ID:
            return (up_to_last_mark(head), tail[first_mark(tail) :])
        return (head, tail)

    @staticmethod
    def _is_quoted(head: bytes, tail: bytes, varying: list[bytes]) -> bool:
        """Whether a short id stands in quotation marks between an added token and a text."""
        is_short = max(map(len, varying)) <= _LONGEST_ID
        return is_short and first_mark(head) >= 0 and head[-1:] == tail[:1] == b'"'

    def ending(self) -> Literal | None:
        """The literal; where it varies, what follows the variation from an added token on."""
        if self.one == self.other:
            return (self.one,)
        tail = self._tail()
        begin = first_mark(tail)
        return (tail[begin:],) if begin >= 0 else None

    def beginning(self) -> bytes:
        """The literal up to where it begins to vary."""
        return without_cut_mark(_common_prefix(self.one, self.other))

    def _tail(self) -> bytes:
        """What both end with, apart from what both begin with."""
        size = min(len(self.one), len(self.other)) - len(self.beginning())
        same = _common_prefix(self.one[::-1], self.other[::-1])[:size][::-1]
        return without_mark_end(same)


class _Learned:
    """Everything that was seen, contradictions included."""

    def __init__(self) -> None:
        self.edges: dict[str, dict[Literal, set[str]]] = defaultdict(lambda: defaultdict(set))
        self.ends: dict[str, set[Literal]] = defaultdict(set)
        self._varied: set[tuple[str, str]] = set()
        self._behind_default: list[tuple[Literal, str]] = []
        """From a system message that the template says by itself to a role."""
        self._before_call: list[bytes] = []
        """From reasoning to the argument of a call."""
        self._behind_call: dict[Literal, set[str]] = defaultdict(set)
        """From the end of a call to a role; only for templates that know tools after calls alone."""

    def add(self, probe: Probe, seen: list[_Seen]) -> None:
        """Take in one rendered conversation."""
        first, *between, last = seen
        roles = probe.roles
        self._add_opening(first, roles[0])
        for (source, target), literal in zip(pairwise(roles), between, strict=True):
            if target == "call":
                if source == "reasoning":
                    self._before_call.append(literal.beginning())
            elif source == "call":
                self._add_behind_call(literal, target)
            else:
                self._add_edge(source, literal.literal(), target)
        if probe.answer:
            self._add_generation_prompt(roles[-1], last.ending())
        elif (end := last.literal()) is not None and (last.one == last.other or len(end) > 1):
            self.ends[roles[-1]].add(end)

    def settle(self) -> Edges | None:
        """One role per literal, or None; a change of speaker that is never clear says nothing."""
        for source, target in self._varied:
            if not any(target in targets for targets in self.edges[source].values()):
                self.edges[source][b"",].add(target)
        if any("system" in targets for targets in self.edges[START].values()):
            for literal, target in self._behind_default:
                begin = max(first_mark(literal[0]), 0)
                self.edges["system"][literal[0][begin:],].add(target)
        assistant = self.edges["assistant"]
        if not any("tool" in targets for targets in assistant.values()):
            for literal, targets in self._behind_call.items():
                assistant[literal] |= targets
        self._add_calls_after_reasoning()
        return _settle(self.edges)

    def _add_opening(self, seen: _Seen, target: str) -> None:
        if target == "system":
            self._add_edge(START, (seen.beginning(),), target)
            return
        self._add_edge(START, seen.ending(), target)
        if seen.one != seen.other and (literal := seen.literal()) is not None:
            self._add_edge(START, literal, target)
            self._behind_default.append((literal[-1:], target))

    def _add_edge(self, source: str, literal: Literal | None, target: str) -> None:
        if literal is None:
            self._varied.add((source, target))
        else:
            self.edges[source][literal].add(target)

    def _add_generation_prompt(self, source: str, literal: Literal | None) -> None:
        if literal is None or _says_nothing(literal):
            return
        if source == "user" or literal not in self.ends[source]:
            self.edges[source][literal].add("assistant")

    def _add_behind_call(self, literal: _Seen, target: str) -> None:
        """What begins with the first added token behind a call's argument is no part of the call."""
        if first_mark(literal.one) < 0:
            return
        one, other = (each[first_mark(each) :] for each in (literal.one, literal.other))
        found = _Seen(one, other).literal()
        if found is not None and not _says_nothing(found):
            self._behind_call[found].add(target)

    def _add_calls_after_reasoning(self) -> None:
        """What ends the reasoning, whether a message or a call follows."""
        to_message = [
            literal[0]
            for literal, targets in self.edges["reasoning"].items()
            if "assistant" in targets
        ]
        if self._before_call and to_message:
            both = without_cut_mark(reduce(_common_prefix, [*to_message, *self._before_call]))
            if not _says_nothing((both,)):
                self.edges["reasoning"][both,].add("assistant")


def _literals(marked: bytes | None, num_contents: int) -> list[bytes] | None:
    """What stands around the contents; None unless each is there once and in its place."""
    contents = [content(place).encode() for place in range(num_contents)]
    if marked is None or any(marked.count(each) != 1 for each in contents):
        return None
    literals = []
    for each in contents:
        literal, found, marked = marked.partition(each)
        if not found:
            return None
        literals.append(literal)
    return [*literals, marked]


def _settle(seen: dict[str, dict[Literal, set[str]]]) -> Edges | None:
    """One role per literal, without the optional roles that cannot be told apart."""
    edges: Edges = defaultdict(dict)
    unmarked: set[str] = set()
    for source, literal, targets in _flat(seen):
        told_apart = _told_apart(source, targets)
        if not _says_nothing(literal) and len(told_apart) == 1:
            edges[source][literal] = min(told_apart)
        elif source == "system" and targets == {"assistant"}:
            continue
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


def _told_apart(source: str, targets: set[str]) -> set[str]:
    """Without the roles that give way to others under the same marker."""
    if source == START and targets == {"system", "assistant"}:
        return {"system"}
    return targets & _CORE or targets


def _flat(
    seen: dict[str, dict[Literal, set[str]]],
) -> Iterator[tuple[str, Literal, set[str]]]:
    for source, leaving in seen.items():
        for literal, targets in leaving.items():
            yield source, literal, targets


def _says_nothing(literal: Literal) -> bool:
    return not b"".join(literal).strip()


def _without_unreachable(edges: Edges) -> Edges:
    entered = {START}.union(*(leaving.values() for leaving in edges.values()))
    return {source: leaving for source, leaving in edges.items() if source in entered}


def _without_default_system(edges: Edges) -> Edges:
    """Without openings that contain a whole system message: it shall be read as one."""
    opening = edges.get(START, {})
    system = [literal[0] for literal, role in opening.items() if role == "system"]

    def contains_system(literal: Literal, role: str) -> bool:
        if len(literal) > 1:
            return any(literal[0][: len(begin)] == begin[: len(literal[0])] for begin in system)
        return any(
            literal[0].startswith(begin)
            and literal[0].endswith(end[-1])
            and len(literal[0]) > len(begin) + len(end[-1])
            for begin in system
            for end, target in edges.get("system", {}).items()
            if target == role
        )

    kept = {
        literal: role for literal, role in opening.items() if not contains_system(literal, role)
    }
    return edges | {START: kept}


def _grammar(edges: Edges, ends: dict[str, set[Literal]], eos_marks: tuple[bytes, ...]) -> Grammar:
    any_end = set[Literal]().union(*ends.values())
    states: dict[str, dict[Literal, Edge]] = {
        source: {
            literal: Edge(role, _closing(literal, ends.get(source) or any_end))
            for literal, role in leaving.items()
        }
        for source, leaving in edges.items()
    }
    states[START] = _anywhere(states) | states.get(START, {})
    closings = {
        role: (
            *(
                literal[0]
                for literal in (*ends.get(role, ()), *edges.get(role, ()))
                if len(literal) == 1
            ),
            *eos_marks,
        )
        for role in ("system", "user", "assistant", "tool", "reasoning")
    }
    return Grammar(states, closings)


def _anywhere(states: dict[str, dict[Literal, Edge]]) -> dict[Literal, Edge]:
    """The edges that mean the same wherever they stand, to find the way into unknown text."""
    edges: dict[Literal, list[Edge]] = defaultdict(list)
    for leaving in states.values():
        for literal, edge in leaving.items():
            edges[literal].append(edge)
    return {
        literal: same[0]
        for literal, same in edges.items()
        if len({edge.role for edge in same}) == 1
    }


def _closing(literal: Literal, ends: set[Literal]) -> int:
    """See `Edge.closing`."""
    if len(literal) > 1:
        for end in ends:
            if len(end) > 1 and end[0] == literal[0]:
                same = len(without_cut_mark(_common_prefix(literal[1], end[1])))
                return same - len(literal[1]) or WHOLE
    return max(
        (len(without_cut_mark(_common_prefix(literal[0], end[0]))) for end in ends), default=0
    )


def _common_prefix(one: bytes, other: bytes) -> bytes:
    size = next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
    return one[:size]
