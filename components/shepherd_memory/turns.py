"""From a sequence's messages to its turns, and what makes a turn itself.

A turn is one user message with everything up to the next one: tool calls and
their results, the assistant's answer.  What was said before the first user
message belongs to the first turn; system messages belong to none.

    system | user  assistant | user  assistant  tool  assistant | user ...
             '--- turn 1 ---'  '----------- turn 2 -----------'

What memory itself put into the conversation (`recalled.py`) is ours, not the
speakers': it is taken out before a turn is looked at, though the tokens of what
is left over of a message keep their place.  Reasoning takes up blocks and is no
part of what was said: templates leave it out of the history.  Knows nothing of sessions'
histories and stores.
"""

from __future__ import annotations

import hashlib
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, zip_longest

from shepherd_events.transcript import Message
from shepherd_memory.block_index import Chain
from shepherd_memory.recalled import answers_memory, without_recalled

ID_SCHEMA = "1"
"""Enters every archive id; another number gives all turns new ids."""

_SYSTEM_ROLES = frozenset({"system", "developer"})
_IDENTITY_ROLES = frozenset({"user", "assistant", "raw"})


@dataclass(frozen=True, slots=True)
class Said:
    """One message of a turn, word for word."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One user message with everything up to the next one."""

    messages: tuple[Said, ...]
    start: int
    """First token of the turn."""
    end: int
    """The token after its last."""
    block_hashes: array[int]
    """The full blocks that hold a token of the turn, in order."""

    @property
    def question(self) -> str:
        """The user's words; empty where they are not known."""
        return question_of(self.messages)


def split_turns(messages: Sequence[Message], chain: Chain) -> tuple[Turn, ...]:
    """The turns of a sequence that begins with `chain`, oldest first."""
    turns = []
    for group in _grouped(messages):
        said = tuple(Said(each.role, each.text) for each in group if each.role != "reasoning")
        blocks = _blocks_of(group, chain)
        turns.append(Turn(said, group[0].start, group[-1].end, blocks))
    return tuple(turns)


def question_of(messages: Iterable[Said]) -> str:
    """What the user said; empty where it is not known."""
    return "\n".join(said.text for said in messages if said.role == "user")


def is_unread(messages: Iterable[Said]) -> bool:
    """Whether nobody is known to have spoken: text of an unknown template."""
    return all(said.role == "raw" for said in messages)


def digest_of(messages: Iterable[Said]) -> str:
    """SHA-256 in hex of what user and assistant said (or of unread text), in Unicode's composed form (NFC)."""
    parts: list[str] = []
    for said in messages:
        if said.role in _IDENTITY_ROLES:
            parts += (said.role, unicodedata.normalize("NFC", said.text))
    return _sha256(parts)


def archive_id_of(tenant: str, session: str, ordinal: int, digest: str) -> str:
    """The turn's name for ever: no worker, event, block or time is in it."""
    return _sha256((ID_SCHEMA, tenant, session, str(ordinal), digest))


def continues(longer: Sequence[Said], shorter: Sequence[Said]) -> bool:
    """Whether `longer` says all that `shorter` says, and then perhaps more."""
    if not shorter or len(longer) < len(shorter):
        return False
    *whole, last = shorter
    begins_equally = all(
        old.role == new.role and old.text.strip() == new.text.strip()
        for old, new in zip(whole, longer, strict=False)
    )
    counterpart = longer[len(whole)]
    return (
        begins_equally
        and last.role == counterpart.role
        and counterpart.text.strip().startswith(last.text.strip())
    )


def _grouped(messages: Sequence[Message]) -> list[list[Message]]:
    groups: list[list[Message]] = []
    for message in _without_tool_recall(messages):
        spoken = _spoken(message)
        if spoken is None:
            continue
        opens = spoken.role == "user" and (not groups or _has_user(groups[-1]))
        if opens or not groups:
            groups.append([])
        groups[-1].append(spoken)
    return groups


def _has_user(group: Iterable[Message]) -> bool:
    return any(message.role == "user" for message in group)


def _without_tool_recall(messages: Sequence[Message]) -> Iterator[Message]:
    """The messages without the results of calls that read memory."""
    calls = ""
    for role, same in groupby(messages, key=lambda message: message.role):
        run = list(same)
        ours = answers_memory(calls, len(run)) if role == "tool" else ()
        calls = run[-1].text
        yield from (each for each, is_ours in zip_longest(run, ours) if not is_ours)


def _spoken(message: Message) -> Message | None:
    """The message without what is ours; None where nothing of a turn is left."""
    if message.role in _SYSTEM_ROLES:
        return None
    if message.role == "assistant":
        return message if message.text.strip() else None
    text = without_recalled(message.text)
    if text == message.text and message.role == "user":
        return message
    return replace(message, text=text) if text.strip() else None


def _blocks_of(messages: Iterable[Message], chain: Chain) -> array[int]:
    """The full blocks that hold a token of the messages; neighbours may share one."""
    size = chain.block_size
    if not size:
        return array("Q")
    touched: dict[int, None] = {}
    for message in messages:
        last = min((message.end - 1) // size, len(chain.block_hashes) - 1)
        touched.update(dict.fromkeys(range(message.start // size, last + 1)))
    return array("Q", (chain.block_hashes[block] for block in touched))


def _sha256(parts: Iterable[str]) -> str:
    """Length-prefixed, so that no two lists of parts run into the same bytes."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return digest.hexdigest()
