"""Which turns of a conversation its session already has, and which are new.

Each request shows its session's conversation again, with one more turn, but
never quite the same: the oldest turns may have been dropped from the context,
an answer may have been rendered again by the chat template, a request may have
been cut off and repeated with part of its answer in the prompt, and frames may
come twice or from two streams in either order.  For a conversation that only
grows the decisions do not depend on that order; one that begins anew under the
same session is numbered as it is heard.  Pure: reads what it is given.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from shepherd_events.events import Attribution
from shepherd_memory.archive.records import StoredTurn, TurnState
from shepherd_memory.turns import Said, Turn, continues, is_unread


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one turn of the conversation."""

    turn: Turn
    ordinal: int
    kept: StoredTurn | None
    """The stored turn that this one is; None where it must be inserted."""
    superseded: tuple[StoredTurn, ...] = ()
    """Unfinished versions, all live, that the inserted turn replaces."""


def reconcile(
    known: Sequence[StoredTurn], turns: Sequence[Turn], request_id: str, given: int = 0
) -> list[Decision]:
    """Decide for each turn of one conversation; `request_id` ended the last of them.

    `given` is the last one's number where the request said it, having left out earlier turns.
    """
    ordinals = _ordinals(known, turns, request_id, given)
    last = len(turns) - 1
    return [
        _decide(turn, ordinal, known, request_id if index == last else "")
        for index, (turn, ordinal) in enumerate(zip(turns, ordinals, strict=True))
    ]


def unread_rest(known: Iterable[StoredTurn], turn: Turn) -> Turn | None:
    """A turn of a model whose template is not understood, without what is archived of it already.

    Its text is the whole conversation so far, and goes on where the text of the last request
    ended.  None where nothing is left; any other turn as it is.
    """
    if not is_unread(turn.messages):
        return turn
    text = "".join(said.text for said in turn.messages)
    for row in sorted(known, key=lambda row: row.age_key):
        if row.state is TurnState.ARCHIVED and is_unread(row.messages):
            text = text.removeprefix("".join(said.text for said in row.messages))
    return replace(turn, messages=(Said("raw", text),)) if text.strip() else None


def _decide(turn: Turn, ordinal: int, known: Iterable[StoredTurn], request_id: str) -> Decision:
    rivals = [row for row in known if row.ordinal == ordinal and _may_be(row, turn)]
    covering = [row for row in rivals if continues(row.messages, turn.messages)]
    if covering:
        return Decision(turn, ordinal, max(covering, key=_certainty))
    shorter = tuple(
        row
        for row in rivals
        if row.state is TurnState.LIVE and _is_shorter_version(row, turn, request_id)
    )
    if shorter:
        return Decision(turn, ordinal, None, shorter)
    same = [row for row in rivals if not request_id or row.request_id == request_id]
    if same:
        return Decision(turn, ordinal, max(same, key=_certainty))
    return Decision(turn, ordinal, None)


def _may_be(row: StoredTurn, turn: Turn) -> bool:
    return row.question == turn.question or _is_rest_of(row, turn)


def _is_rest_of(row: StoredTurn, turn: Turn) -> bool:
    """Whether a row without its question says what the turn ends with."""
    return not row.question and _spoken(turn.messages).endswith(_spoken(row.messages))


def _is_shorter_version(row: StoredTurn, turn: Turn, request_id: str) -> bool:
    if continues(turn.messages, row.messages) or _is_rest_of(row, turn):
        return True
    same_request = bool(request_id) and row.request_id == request_id
    return same_request and len(_spoken(row.messages)) < len(_spoken(turn.messages))


def _certainty(row: StoredTurn) -> tuple[bool, tuple[int, int, str]]:
    """Prefers what is archived already, then the newest answer."""
    return (row.state is TurnState.ARCHIVED, row.age_key)


def _spoken(messages: Iterable[Said]) -> str:
    return "\n".join(said.text.strip() for said in messages)


def _ordinals(
    known: Iterable[StoredTurn], turns: Sequence[Turn], request_id: str, given: int
) -> list[int]:
    """Plain counting where it agrees with what is known, else by the turns found again."""
    by_ordinal: defaultdict[int, set[str]] = defaultdict(set)
    anchor = given
    for row in known:
        if row.question:
            by_ordinal[row.ordinal].add(row.question)
        if not given and row.request_id and row.request_id == request_id:
            anchor = row.ordinal
    counted = list(range(1, len(turns) + 1))
    if not turns or (anchor in {0, len(turns)} and _agrees(by_ordinal, turns)):
        return counted
    found = _found_again(by_ordinal, turns, anchor)
    return _filled(found, beyond=max(by_ordinal, default=0))


def _agrees(by_ordinal: dict[int, set[str]], turns: Sequence[Turn]) -> bool:
    history = turns[:-1] or turns
    return all(
        turn.question in by_ordinal[ordinal]
        for ordinal, turn in enumerate(history, start=1)
        if ordinal in by_ordinal
    )


def _found_again(by_ordinal: dict[int, set[str]], turns: Sequence[Turn], anchor: int) -> list[int]:
    """The ordinal of each turn of the history, latest first match, 0 where there is none."""
    limit = anchor or max(by_ordinal, default=0) + 1
    found = [0] * (len(turns) - 1) + [anchor]
    for index in range(len(turns) - 2, -1, -1):
        candidates = [
            ordinal
            for ordinal, questions in by_ordinal.items()
            if ordinal < limit and turns[index].question in questions
        ]
        if candidates:
            found[index] = limit = max(candidates)
    return found


def _filled(found: list[int], beyond: int) -> list[int]:
    """Numbers for the turns not found: after their predecessor, or before the first one found."""
    first = next((index for index, ordinal in enumerate(found) if ordinal), None)
    if first is None:
        return list(range(beyond + 1, beyond + len(found) + 1))
    ordinals = [max(1, found[first] - first + index) for index in range(first)]
    for ordinal in found[first:]:
        ordinals.append(ordinal or ordinals[-1] + 1)
    return ordinals


def reconcile_newest(
    known: Sequence[StoredTurn], turn: Turn, origin: Attribution
) -> list[Decision]:
    """Decide for the end of a conversation whose beginning is not known.

    Its number is what the request said, or the next free one; a turn that is
    there already is better than its end.
    """
    same = [row for row in known if row.request_id and row.request_id == origin.request_id]
    following = max((row.ordinal for row in known), default=0) + 1
    ordinal = same[-1].ordinal if same else origin.turn or following
    there = [row for row in known if row.ordinal == ordinal]
    return [Decision(turn, ordinal, there[-1] if there else None)]
