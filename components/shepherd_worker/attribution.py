"""Whose request it is, and what its KV is worth: read off its session context, salt and tokens.

The ordinal is the number of user messages in the prompt, so that every worker,
replay and migration gives a turn the same one without any shared state.
"""

from __future__ import annotations

import asyncio
from array import array
from dataclasses import dataclass

from shepherd_events.block_hash import salt_id
from shepherd_events.events import Attribution
from shepherd_events.transcript import Message, TranscriptReader, count_user_messages
from shepherd_telemetry.trace_context import current_traceparent
from shepherd_worker.request import Retention
from shepherd_worker.retention import conversation_retention
from shepherd_worker.wire import WireAgentContext, WireRequest, WireRouting

LOCAL_TENANT = "local"
"""The tenant of requests without a cache salt."""


@dataclass(frozen=True, slots=True)
class SessionOrigin(Attribution):
    """An origin with what only the end of its turn says to the stream."""

    parent_session_id: str = ""
    session_final: bool = False
    traceparent: str = ""
    """Of the span that answers the request; see `TurnCompleted`."""


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
        """The origin and the retention of one request."""
        session = wire.agent_context or WireAgentContext()
        salt = (wire.routing or WireRouting()).cache_salt or ""
        tenant = salt_id(salt).hex() if salt else LOCAL_TENANT
        messages: tuple[Message, ...] = ()
        if self._reader is not None:
            messages = await asyncio.to_thread(self._reader.read, token_ids)
        origin = SessionOrigin(
            request_id=request_id,
            session_id=session.session_id or "",
            tenant=tenant,
            turn=count_user_messages(messages) if session.session_id else 0,
            parent_session_id=session.parent_session_id or "",
            session_final=bool(session.session_final),
            traceparent=current_traceparent(),
        )
        retention = conversation_retention(
            messages,
            session_final=origin.session_final,
            system_duration_s=self._system_duration_s,
        )
        return Attributed(origin, retention)
