"""Whose request it is, and what its KV is worth: read off its session context, salt and tokens.

The ordinal is the number of user messages in the prompt, so that every worker,
replay and migration gives a turn the same one without any shared state.  Whoever
leaves earlier turns out of a prompt says which turn it is among the strings of
`nvext.annotations`, the only ones that Dynamo's frontend hands over as they are:

    session_turn:NUMBER
"""

from __future__ import annotations

import asyncio
import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

from shepherd_events.block_hash import salt_id
from shepherd_events.events import Attribution
from shepherd_events.transcript import Message, TranscriptReader, count_user_messages
from shepherd_telemetry.trace_context import current_traceparent
from shepherd_worker.errors import InvalidRequestError
from shepherd_worker.request import Retention
from shepherd_worker.retention import conversation_retention
from shepherd_worker.wire import WireAgentContext, WireRequest, WireRouting

MAX_TURN = 2**32 - 1
_TURN = "session_turn"
_NUMBER = re.compile(r"[0-9]{1,10}")
LOCAL_TENANT = "local"
"""The tenant of requests without a cache salt."""


@dataclass(frozen=True, slots=True)
class SessionOrigin(Attribution):
    """An origin with what only the end of its turn says to the stream."""

    parent_session_id: str = ""
    session_final: bool = False
    traceparent: str = ""
    """Of the span that answers the request; see `TurnCompleted`."""
    turn_is_given: bool = False
    """Whether the request said which turn it is."""


@dataclass(frozen=True, slots=True)
class Attributed:
    """What was found out about a request."""

    origin: SessionOrigin
    """Anonymous where the request names no session."""
    retention: Retention | None


class Attributor:
    """See the module's docstring."""

    def __init__(
        self, reader: TranscriptReader | None, *, system_duration_s: float | None = None
    ) -> None:
        self._reader = reader
        """None where the model has no chat template: every ordinal is 0 then."""
        self._system_duration_s = system_duration_s
        """How long a system prompt's priority outlives its last use; None is for ever."""

    async def attribute(
        self, wire: WireRequest, token_ids: array[int], request_id: str
    ) -> Attributed:
        """The origin and the retention of one request.

        Raises:
            InvalidRequestError: a turn's number that is none.
        """
        session = wire.agent_context or WireAgentContext()
        given = given_turn(wire.annotations or ())
        salt = (wire.routing or WireRouting()).cache_salt or ""
        tenant = salt_id(salt).hex() if salt else LOCAL_TENANT
        messages: tuple[Message, ...] = ()
        if self._reader is not None:
            messages = await asyncio.to_thread(self._reader.read, token_ids)
        origin = SessionOrigin(
            request_id=request_id,
            session_id=session.session_id or "",
            tenant=tenant,
            turn=(given or count_user_messages(messages)) if session.session_id else 0,
            parent_session_id=session.parent_session_id or "",
            session_final=bool(session.session_final),
            traceparent=current_traceparent(),
            turn_is_given=bool(given and session.session_id),
        )
        retention = conversation_retention(
            messages,
            session_final=origin.session_final,
            system_duration_s=self._system_duration_s,
        )
        return Attributed(origin, retention)


def given_turn(annotations: Iterable[str]) -> int:
    """The turn that a request says it is, from 1; 0 where it says nothing.

    Raises:
        InvalidRequestError: it says something else than a number in range.
    """
    for annotation in annotations:
        field, _, number = annotation.partition(":")
        if field == _TURN:
            if not _NUMBER.fullmatch(number) or not 1 <= int(number) <= MAX_TURN:
                raise InvalidRequestError(field, number, f"a number from 1 to {MAX_TURN}")
            return int(number)
    return 0
