"""Whose request it is: tenant, session, and the turn's ordinal.

The ordinal is the number of user messages in the prompt, so that every worker,
replay and migration gives a turn the same one without any shared state.
"""

from __future__ import annotations

import asyncio
from array import array
from dataclasses import dataclass

from shepherd_events.block_hash import salt_id
from shepherd_events.events import Attribution
from shepherd_events.transcript import TranscriptReader
from shepherd_worker.wire import WireAgentContext, WireRequest, WireRouting

LOCAL_TENANT = "local"
"""The tenant of requests without a cache salt."""


@dataclass(frozen=True, slots=True)
class SessionOrigin(Attribution):
    """An origin with what only the end of its turn says to the stream."""

    parent_session_id: str = ""
    session_final: bool = False


class Attributor:
    """Reads a request's origin off its session context, salt and tokens."""

    def __init__(self, reader: TranscriptReader | None) -> None:
        self._reader = reader
        """None where the model has no chat template: every ordinal is 0 then."""

    async def attribute(
        self, wire: WireRequest, token_ids: array[int], request_id: str
    ) -> SessionOrigin:
        """The origin of one request; anonymous where it names no session."""
        session = wire.agent_context or WireAgentContext()
        salt = (wire.routing or WireRouting()).cache_salt or ""
        tenant = salt_id(salt).hex() if salt else LOCAL_TENANT
        turn = 0
        if session.session_id and self._reader is not None:
            turn = await asyncio.to_thread(self._reader.count_user_messages, token_ids)
        return SessionOrigin(
            request_id=request_id,
            session_id=session.session_id or "",
            tenant=tenant,
            turn=turn,
            parent_session_id=session.parent_session_id or "",
            session_final=bool(session.session_final),
        )
