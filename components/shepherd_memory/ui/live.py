"""Tells open pages that something has changed; what it is they ask as they did before."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from fastapi import APIRouter
from starlette.responses import StreamingResponse

from shepherd_auth.errors import CredentialError
from shepherd_memory.api.access import Caller, Reader, gate_of

router = APIRouter()


@router.get("/live", response_class=StreamingResponse)
async def live(caller: Reader) -> StreamingResponse:
    """Server-sent events without content, until the credential is no longer accepted."""
    return StreamingResponse(_events(caller), media_type="text/event-stream")


async def _events(caller: Caller) -> AsyncIterator[str]:
    gate = gate_of(caller.request)
    yield "retry: 2000\n\n"
    async with aclosing(caller.memory.changes()) as changes:
        async for has_changed in changes:
            try:
                gate.identify(caller.request)
            except CredentialError:
                return
            yield "event: change\ndata:\n\n" if has_changed else ": still here\n\n"
