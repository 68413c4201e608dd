"""The turns of a client's messages, as the memory counts them.

A turn is one user message with everything up to the next one; what was said
before the first user message belongs to the first turn, system messages belong
to none.  So a tool call and its result are always in the same turn.

    system | user  assistant | user  assistant  tool  assistant | user
             '--- turn 0 ---'  '----------- turn 1 -----------'   '- 2, the newest

Knows nothing of archives and notices.  Pure.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = Mapping[str, Any]
"""A message of a chat completion request, as JSON."""

SYSTEM_ROLES = frozenset({"system", "developer"})


@dataclass(frozen=True, slots=True)
class Turn:
    """One user message with everything up to the next one."""

    places: tuple[int, ...]
    """Which of the conversation's messages it is made of, ascending."""
    opening: int
    """The place of its user message; of its first message where it has none."""
    messages: tuple[Message, ...]

    @property
    def question(self) -> str:
        """The user's words."""
        return "\n".join(text_of(each) for each in self.messages if each.get("role") == "user")

    @property
    def is_plain(self) -> bool:
        """Whether it is text alone, so that an archive of text holds all of it."""
        return all(_is_text(each.get("content")) for each in self.messages)


def turns_of(messages: Sequence[Message]) -> tuple[Turn, ...]:
    """The turns, oldest first."""
    groups: list[list[int]] = []
    has_user = False
    for place, message in enumerate(messages):
        role = message.get("role")
        if role in SYSTEM_ROLES:
            continue
        if not groups or (role == "user" and has_user):
            groups.append([])
            has_user = False
        has_user = has_user or role == "user"
        groups[-1].append(place)
    return tuple(_turn(messages, group) for group in groups)


def keys_of(turns: Sequence[Turn]) -> list[str]:
    """A name for each turn's user message and all that was said before it: a branch has others."""
    chain = hashlib.sha256()
    keys: list[str] = []
    for turn in turns:
        for place, message in zip(turn.places, turn.messages, strict=True):
            for part in (str(message.get("role")), squeezed(text_of(message))):
                encoded = part.encode("utf-8", "surrogatepass")
                chain.update(len(encoded).to_bytes(8, "big") + encoded)
            if place == turn.opening:
                keys.append(chain.hexdigest())
    return keys


def text_of(message: Message) -> str:
    """A message's text; empty where it has none."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    return "".join(part["text"] for part in parts if _is_text_part(part))


def squeezed(text: str) -> str:
    """Text without what chat templates change of it: white space, Unicode's composition."""
    return "".join(unicodedata.normalize("NFC", text).split())


def _turn(messages: Sequence[Message], group: Sequence[int]) -> Turn:
    opening = next((each for each in group if messages[each].get("role") == "user"), group[0])
    return Turn(tuple(group), opening, tuple(messages[each] for each in group))


def _is_text(content: object) -> bool:
    if isinstance(content, list):
        return all(_is_text_part(part) for part in content)
    return content is None or isinstance(content, str)


def _is_text_part(part: object) -> bool:
    return (
        isinstance(part, dict)
        and part.get("type", "text") in {"text", "input_text", "output_text"}
        and isinstance(part.get("text"), str)
    )
