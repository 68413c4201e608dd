"""What is sent upstream of a conversation: archived turns dropped, NOTICEs in their place.

    client     S  u1 a1  u2 a2  u3 a3  u4            turns 1 and 2 are archived
    upstream   S                u3 a3  NOTICE  u4    first due when u4 was asked
    later      S                u3 a3  NOTICE  u4 a4  u5

A NOTICE stands before the user message of the turn in which it first became due
and stays there, so each request begins with all of the request before it until
something else is archived.  Which turn that was is remembered (`Anchors`); what is
not remembered, as after a restart, is told by time: the first turn that began after
the notice was made.  System messages, the newest turn and whatever the archive
does not hold word for word always stay.  Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from shepherd_gateway.archived import KeptTurn, SessionNotice, SessionView, found_in
from shepherd_gateway.conversation import Message, Turn, keys_of, turns_of

MAX_TOLD = 8
"""NOTICEs that stand in one place, and those whose turn has been dropped; the oldest go first.
So few that a conversation without end does not fill a small window with them: one is enough
for a model to search."""
NOTICE_NAME = "context_eviction"


class OnEviction(StrEnum):
    """What becomes of archived turns."""

    NOTICE = "notice"
    """They are dropped, and a NOTICE tells of them."""
    RECOMPUTE = "recompute"
    """They stay, and the worker computes them again."""
    ADAPTIVE = "adaptive"
    """As `NOTICE` as soon as computing them again would cost more than so many tokens."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How a context is made."""

    on_eviction: OnEviction = OnEviction.NOTICE
    adaptive_tokens: int = 0
    notice_role: str = "tool"
    """What the model's chat template takes between two turns."""
    is_silent: bool = False
    """Whether NOTICEs are left out, the window having no room for anything that is not the client's."""


@dataclass(frozen=True, slots=True)
class Context:
    """What is sent, and what was done."""

    messages: list[Message]
    turns: tuple[Turn, ...]
    """The client's."""
    found: tuple[KeptTurn | None, ...]
    """The memory's turn for each of them."""
    dropped: tuple[int, ...]
    """Which turns were left out, ascending."""
    anchors: Mapping[str, str]
    """For each NOTICE that was due, the key of the turn that it stands in."""
    dropped_tokens: int
    """A rough count."""

    @property
    def newest_ordinal(self) -> int:
        """The newest turn's number as the memory counts, which its prompt does not show any more.

        0 where nothing was dropped.
        """
        if not self.dropped:
            return 0
        known = ((place, row) for place, row in enumerate(self.found[:-1]) if row is not None)
        *_, (place, row) = known
        return row.ordinal + len(self.turns) - 1 - place


def context_of(
    messages: Sequence[Message],
    view: SessionView,
    policy: Policy,
    anchors: Mapping[str, Collection[str]],
) -> Context:
    """The messages to send, given what the memory holds of the session.

    `anchors` are the turns in which each notice stood before, in whatever branch.
    """
    turns = turns_of(messages)
    found = tuple(found_in(view.turns, turns)) if view.turns else (None,) * len(turns)
    due = _due(view, policy) if turns else []
    gone = frozenset().union(*(notice.archive_ids for notice in due))
    dropped = tuple(
        place
        for place, row in enumerate(found[:-1])
        if row is not None and row.is_archived and row.archive_id in gone
    )
    keys = keys_of(turns) if due else []
    told = [] if policy.is_silent else due
    placed = [(_place(notice, keys, found, anchors), notice) for notice in told]
    placed.sort(key=lambda each: each[0])
    sent = _sent(messages, turns, frozenset(dropped), placed, policy.notice_role)
    return Context(
        messages=sent,
        turns=turns,
        found=found,
        dropped=dropped,
        anchors={notice.notice_id: keys[place] for place, notice in placed},
        dropped_tokens=sum(row.num_tokens for place in dropped if (row := found[place])),
    )


def numbered(body: Mapping[str, Any], ordinal: int) -> dict[str, Any]:
    """The request, saying which turn its newest one is; 0 says nothing.

    Workers read it among the strings that Dynamo's frontend hands over as they are.
    """
    extension = body.get("nvext") or {}
    annotations = (extension.get("annotations") or []) if isinstance(extension, dict) else None
    if not ordinal or not isinstance(annotations, list):  # the frontend refuses what is none
        return dict(body)
    said = [f"session_turn:{ordinal}", *annotations]
    return {**body, "nvext": {**extension, "annotations": said}}


def notice_message(text: str, role: str) -> dict[str, Any]:
    """A NOTICE as a message."""
    if role == "tool":
        return {"role": role, "name": NOTICE_NAME, "tool_call_id": NOTICE_NAME, "content": text}
    return {"role": role, "content": text}


def _due(view: SessionView, policy: Policy) -> list[SessionNotice]:
    """The notices to tell; each with the time at which it became due."""
    if policy.on_eviction is OnEviction.RECOMPUTE:
        return []
    if policy.on_eviction is OnEviction.NOTICE:
        return list(view.notices)
    cost_of = {row.archive_id: row.num_tokens for row in view.turns}
    due: list[SessionNotice] = []
    waiting: list[SessionNotice] = []
    cost = 0
    for notice in view.notices:
        waiting.append(notice)
        cost += sum(cost_of.get(each, 0) for each in notice.archive_ids)
        if cost > policy.adaptive_tokens:
            due += (replace(each, created_unix_ns=notice.created_unix_ns) for each in waiting)
            waiting, cost = [], 0
    return due


def _place(
    notice: SessionNotice,
    keys: Sequence[str],
    found: Sequence[KeptTurn | None],
    anchors: Mapping[str, Collection[str]],
) -> int:
    """The turn that a notice stands in."""
    stood = anchors.get(notice.notice_id, ())
    for place, key in enumerate(keys):
        if key in stood:
            return place
    newest = len(keys) - 1
    for place, row in enumerate(found[:newest]):
        if row is not None and row.started_unix_ns > notice.created_unix_ns:
            return place
    return newest


def _sent(
    messages: Sequence[Message],
    turns: Sequence[Turn],
    dropped: Collection[int],
    placed: Iterable[tuple[int, SessionNotice]],
    role: str,
) -> list[Message]:
    before: dict[int, list[SessionNotice]] = {}
    homeless: dict[int, list[SessionNotice]] = {}
    for place, notice in placed:
        home = next(each for each in range(place, len(turns)) if each not in dropped)
        group = before if home == place else homeless
        group.setdefault(turns[home].opening, []).append(notice)
    allowed = MAX_TOLD
    for opening in sorted(homeless, reverse=True):
        kept = homeless[opening][-allowed:] if allowed else []
        allowed -= len(kept)
        before[opening] = kept + before.get(opening, [])
    left_out = {place for turn in dropped for place in turns[turn].places}
    sent: list[Message] = []
    for place, message in enumerate(messages):
        sent += (notice_message(notice.text, role) for notice in before.get(place, [])[-MAX_TOLD:])
        if place not in left_out:
            sent.append(message)
    return sent
