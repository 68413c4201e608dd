"""What the memory holds of a session, and which of the client's turns that is.

A client's turn is an archived one only where the archive holds every word of it:
the question, each answer, each call and its result.  An edited turn, one with an
image, or one that the memory has not heard of is none, and so is never dropped.
What chat templates change of a text, white space above all, does not count.
Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from shepherd_gateway.conversation import Turn, squeezed, text_of

CHARS_PER_TOKEN = 4
"""Only for weighing what a recomputation would cost."""

_CALL = re.compile(r"<tool_call>|\[TOOL_CALLS\]|<function=|<\|python_tag\|>|<｜tool▁calls▁begin｜>")  # noqa: RUF001  DeepSeek's own bar
"""Where a template's tool calls begin in an answer's text."""


@dataclass(frozen=True)
class KeptTurn:
    """One turn as the memory has it."""

    archive_id: str
    ordinal: int
    """Number of user messages so far, from 1; branches share it."""
    is_archived: bool
    messages: tuple[tuple[str, str], ...]
    """Role and text."""
    started_unix_ns: int
    """When the request that first told of it began, by the worker's clock."""

    @cached_property
    def question(self) -> str:
        """The user's words, squeezed."""
        return squeezed("\n".join(text for role, text in self.messages if role == "user"))

    @cached_property
    def answers(self) -> tuple[str, ...]:
        """What the assistant said, message by message, squeezed and without calls."""
        said = (text for role, text in self.messages if role == "assistant")
        return tuple(squeezed(_CALL.split(text)[0]) for text in said)

    @cached_property
    def everything(self) -> str:
        """All of it, squeezed."""
        return squeezed("\n".join(text for _, text in self.messages))

    @property
    def num_tokens(self) -> int:
        """A rough count."""
        return 1 + sum(len(text) for _, text in self.messages) // CHARS_PER_TOKEN


@dataclass(frozen=True, slots=True)
class SessionNotice:
    """What a session should be told."""

    notice_id: str
    text: str
    archive_ids: frozenset[str]
    """The turns that it tells of."""
    created_unix_ns: int
    """By the memory's clock."""
    is_pending: bool = True
    """Whether nobody has acknowledged it."""


@dataclass(frozen=True, slots=True)
class SessionView:
    """What the memory holds of one session."""

    turns: tuple[KeptTurn, ...] = ()
    notices: tuple[SessionNotice, ...] = ()
    """In the order of their creation."""


NOTHING = SessionView()


def found_in(kept: Iterable[KeptTurn], turns: Sequence[Turn]) -> list[KeptTurn | None]:
    """The memory's turn for each of the client's, or None; none is found twice.

    Where a turn's words were said more than once, the one with the number of its place is
    taken, else the first behind the turn before.
    """
    by_question: dict[str, list[KeptTurn]] = {}
    for row in sorted(kept, key=lambda row: (row.ordinal, not row.is_archived)):
        by_question.setdefault(row.question, []).append(row)
    found: list[KeptTurn | None] = []
    reached = 0
    for place, turn in enumerate(turns, start=1):
        rivals = [
            row
            for row in by_question.get(squeezed(turn.question), ())
            if row.ordinal > reached and holds(row, turn)
        ]
        at_place = (row for row in rivals if row.ordinal == place)
        match = next(at_place, rivals[0] if rivals else None)
        reached = reached if match is None else match.ordinal
        found.append(match)
    return found


def holds(row: KeptTurn, turn: Turn) -> bool:
    """Whether the memory's turn says everything that the client's says."""
    if not turn.is_plain or row.question != squeezed(turn.question):
        return False
    answered = "".join(
        squeezed(text_of(each)) for each in turn.messages if each.get("role") == "assistant"
    )
    others = [text_of(each) for each in turn.messages if each.get("role") in {"tool", "function"}]
    others += [part for each in turn.messages for part in _calls(each.get("tool_calls"))]
    return _is_made_of(answered, row.answers) and all(
        squeezed(text) in row.everything for text in others
    )


def _is_made_of(text: str, pieces: Iterable[str]) -> bool:
    """Whether a text is some of the pieces in their order, and nothing else."""
    for piece in pieces:
        text = text.removeprefix(piece)
    return not text


def _calls(calls: Any) -> Iterable[str]:
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            yield from (str(function.get("name", "")), str(function.get("arguments", "")))
