"""What of a streamed answer goes on to the client, and as what.

Nearly every event is a piece of text that concerns nobody here: it goes on as the
bytes that came.  It is looked at without being read whole, since that is done for
every token of every client.  Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from shepherd_gateway.errors import UpstreamError
from shepherd_gateway.sse import Event, encoded
from shepherd_gateway.tools import Round
from shepherd_gateway.upstream import refusal_in


class _Delta(msgspec.Struct):
    content: str | None = None
    tool_calls: msgspec.UnsetType | None = msgspec.UNSET


class _Choice(msgspec.Struct):
    delta: _Delta
    finish_reason: msgspec.UnsetType | None = msgspec.UNSET


class _Text(msgspec.Struct):
    """A chunk that says some words, or none; whatever else it may be does not fit in here."""

    choices: tuple[_Choice]
    usage: msgspec.UnsetType | None = msgspec.UNSET
    error: msgspec.UnsetType = msgspec.UNSET


_TEXT = msgspec.json.Decoder(_Text)


class Relay:
    """The events of one answer; all answers to one request have the first's id."""

    def __init__(self, answer: Round | None, identity: dict[str, Any], *, is_first: bool) -> None:
        """Without `answer` nothing is noted, and all goes on as it came.

        `identity` is filled by the first answer, and given to the events of further ones.
        """
        self._answer = answer
        self._identity = identity
        self._is_first = is_first
        self.has_ended = False
        self.refusal: UpstreamError | None = None
        """What the stream told of instead of going on."""

    def take(self, events: Iterable[Event]) -> bytes:
        """What goes on of these events; empty where all of it is kept back."""
        passed: list[bytes] = []
        for event in events:
            if event.is_done:
                self.has_ended = True
                break
            passed.append(event.raw if self._is_text(event.data) else self._read(event))
            if self.refusal is not None:
                break
        return b"".join(passed)

    def _is_text(self, data: bytes) -> bool:
        if self._answer is not None and not (self._is_first and self._identity):
            return False
        try:
            text = _TEXT.decode(data)
        except msgspec.DecodeError:
            return False
        if self._answer is not None:
            self._answer.say(text.choices[0].delta.content)
        return True

    def _read(self, event: Event) -> bytes:
        piece = event.document()
        self.refusal = refusal_in(piece)
        if self.refusal is not None:
            return b""
        if self._answer is None or not isinstance(piece, dict):
            return event.raw
        if not self._answer.take(piece):
            return b""
        self._identity.setdefault("id", piece.get("id"))
        self._identity.setdefault("created", piece.get("created"))
        return event.raw if self._is_first else encoded({**piece, **self._identity})
