"""Which turns a context window has no room for.

Nobody counts tokens here: the worker does, and says how many there were and how
many there may be when it refuses a prompt, before it computes anything.  What a
turn weighs is estimated from its share of the characters.  More room is made than
is missing, so that the next turns do not move the beginning again.  Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from shepherd_gateway.context import Context
from shepherd_gateway.conversation import Turn, text_of

FILL = 0.7
"""Share of the window that is left filled."""

_OURS = re.compile(r"prompt=(\d+) is not valid: .*the context holds (\d+)")
_OPENAI = re.compile(r"maximum context length is (\d+) tokens\b.*?\b(\d+) tokens", re.DOTALL)
"""As OpenAI, Dynamo's frontend and vLLM say it."""
_SOME = re.compile(
    r"context (?:length|window|size)|max(?:imum)?_(?:seq_len|model_len)|too long", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Overflow:
    """A prompt that was too long."""

    num_tokens: int
    window: int
    """Both 0 where the refusal does not say."""


def overflow_in(message: str) -> Overflow | None:
    """What a refusal says of the prompt's length; None where it is about something else."""
    if found := _OURS.search(message):
        return Overflow(int(found[1]), int(found[2]))
    if found := _OPENAI.search(message):
        return Overflow(int(found[2]), int(found[1]))
    return Overflow(0, 0) if _SOME.search(message) else None


def leaving(context: Context, overflow: Overflow) -> tuple[int, ...]:
    """The oldest turns that must go, by place; none where nothing may."""
    sent = sum(_weight(each) for each in context.messages)
    missing = sent / 2
    if overflow.num_tokens:
        missing = sent * (1 - FILL * overflow.window / overflow.num_tokens)
    gone: list[int] = []
    for place, turn in enumerate(context.turns[:-1]):
        if missing <= 0:
            break
        if place in context.dropped or not turn.is_plain:
            continue
        gone.append(place)
        missing -= sum(_weight(each) for each in turn.messages)
    return tuple(gone)


def unseen(place: int, turn: Turn) -> dict[str, Any]:
    """A turn as the memory takes it that never heard of it."""
    said = [{"role": str(each.get("role")), "content": _told(each)} for each in turn.messages]
    return {"ordinal": place + 1, "messages": said}


def _told(message: Mapping[str, Any]) -> str:
    parts = [text_of(message)]
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        name, arguments = function.get("name"), function.get("arguments")
        parts.append(f'<tool_call>{{"name": "{name}", "arguments": {arguments}}}</tool_call>')
    return "\n".join(part for part in parts if part)


def _weight(message: Mapping[str, Any]) -> int:
    return len(msgspec.json.encode(message))
