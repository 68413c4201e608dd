"""Conversations to learn a chat template from: unmistakable contents, everything else varied.

Each probe exists in two *worlds* that differ in clock, tools and the names and ids of
calls: what differs between their renderings is no part of a marker.  In a shape,
`reasoning` is what the assistant thinks before the message that follows, and `call`
is an assistant's message that calls a tool, whose content is the call's argument.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from typing import Any

from shepherd_events.chat_template import Conversation

WORLDS = 2

ANSWERED = frozenset(("user", "tool"))
"""After these a generation prompt makes sense."""

_SHAPES = (
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
    "tool user",
    "system tool user",
    "system tool tool user",
    "tool tool user",
    "user assistant tool",
    "user assistant tool assistant",
    "user assistant tool tool assistant",
    "user assistant tool user",
    "user assistant tool assistant user",
    "user reasoning assistant",
    "user reasoning assistant user assistant",
    "user call tool",
    "user call tool assistant",
    "user call tool assistant user",
    "user call tool reasoning assistant",
    "user reasoning call tool",
)
"""Those that a template rejects teach nothing."""

_CLOCKS = (
    datetime(1987, 2, 1, 3, 4, 5, tzinfo=UTC),
    datetime(2046, 11, 29, 16, 57, 38, tzinfo=UTC),
)
"""Two moments that differ in every field: text that changes with them is no literal."""

_NAMES = ("find", "look")
_CALL_IDS = ("aB3dE5fG7", "Zy8Xw6Vu4")
"""Of nine letters and digits, which is what the strictest templates ask for."""

_THINKING: tuple[Mapping[str, object], ...] = (
    {},
    {"enable_thinking": False, "thinking": False},
    {"enable_thinking": True, "thinking": True},
)
"""Ways to ask for an answer."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One conversation, in both of its worlds."""

    roles: tuple[str, ...]
    """Of the contents, in their order."""
    answer: bool
    """Whether a generation prompt stands at the end."""
    worlds: tuple[Conversation, ...]


def probes() -> Iterator[Probe]:
    """All that there is to ask a template."""
    for shape, tools in product(_SHAPES, (False, True)):
        roles = tuple(shape.split())
        for as_text in (False, True)[: 1 + ("call" in roles)]:
            yield _probe(roles, tools=tools, as_text=as_text)
        if roles[-1] in ANSWERED:
            for options in _THINKING:
                yield _probe(roles, tools=tools, options=options, answer=True)


def thought(closing: str) -> Conversation:
    """An answer with what was thought before it, as the model wrote them."""
    return Conversation(
        (
            {"role": "user", "content": content(0)},
            {"role": "assistant", "content": content(1) + closing + content(2)},
            {"role": "user", "content": content(3)},
        )
    )


def content(place: int) -> str:
    """A text that no template contains and every tokenizer keeps."""
    return f"qzx{'abcdefgh'[place]}xzq"


def _probe(
    roles: tuple[str, ...],
    *,
    tools: bool,
    as_text: bool = False,
    options: Mapping[str, object] | None = None,
    answer: bool = False,
) -> Probe:
    worlds = tuple(
        Conversation(
            _messages(roles, world, as_text),
            answer,
            (_tool(_NAMES[world]),) if tools else (),
            _CLOCKS[world],
            options or {},
        )
        for world in range(WORLDS)
    )
    return Probe(roles, answer, worlds)


def _messages(roles: tuple[str, ...], world: int, as_text: bool) -> tuple[dict[str, Any], ...]:
    messages: list[dict[str, Any]] = []
    pending: dict[str, Any] = {}
    for place, role in enumerate(roles):
        if role == "reasoning":
            pending = {"reasoning_content": content(place), "thinking": content(place)}
            continue
        said: dict[str, Any] = {"role": role, "content": content(place)}
        if role == "tool":
            said |= {"tool_call_id": _CALL_IDS[world], "name": _NAMES[world]}
        elif role == "call":
            arguments = {"argument": content(place)}
            said = {
                "role": "assistant",
                "content": "",
                "tool_calls": [_call(world, json.dumps(arguments) if as_text else arguments)],
            }
        messages.append(said | pending)
        pending = {}
    return tuple(messages)


def _call(world: int, arguments: object) -> dict[str, Any]:
    function = {"name": _NAMES[world], "arguments": arguments}
    return {"id": _CALL_IDS[world], "type": "function", "function": function}


def _tool(name: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {name: {"type": "string", "description": name}}}
    function = {"name": name, "description": name, "parameters": parameters}
    return {"type": "function", "function": function}
