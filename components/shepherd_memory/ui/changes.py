"""What a person may change from a page: acknowledge a notice, forget a conversation or a turn."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from shepherd_memory.api.access import Writer
from shepherd_memory.api.parameters import OfSession
from shepherd_memory.errors import InvalidParameterError
from shepherd_memory.ui.forms import ProvenForm
from shepherd_memory.ui.rendering import page

router = APIRouter()

_ARCHIVE_ID = re.compile(r"[0-9a-f]{64}")
_ID = re.compile(r"[\x21-\x7e]{1,256}")
_OfTurn = Annotated[str | None, Query(pattern=rf"^{_ARCHIVE_ID.pattern}$")]


@router.post("/acknowledge")
async def acknowledge_notice(request: Request, caller: Writer, fields: ProvenForm) -> Response:
    """The session has been told."""
    await caller.memory.acknowledge(_field(fields.get("notice", ""), "notice", _ID))
    caller.counted(1)
    base, session = request.scope.get("root_path", ""), fields.get("session", "")
    if session:
        _field(session, "session", _ID)
        return RedirectResponse(f"{base}/session?{urlencode({'id': session})}", 303)
    return RedirectResponse(f"{base}/", 303)


@router.get("/forget")
async def forget_form(
    request: Request, caller: Writer, session: OfSession = None, turn: _OfTurn = None
) -> Response:
    """What would be forgotten, and the button that does it."""
    if session is None:
        raise InvalidParameterError("session", "", "the session's id")
    found = await caller.memory.session(session)
    return page(request, "forget", caller=caller, summary=found, turn=turn or "")


@router.post("/forget")
async def forget_now(request: Request, caller: Writer, fields: ProvenForm) -> Response:
    """Remove a session, or one turn of it, for good."""
    session = _field(fields.get("session", ""), "session", _ID)
    if turn := fields.get("turn", ""):
        erased = await caller.memory.erase_turn(_field(turn, "turn", _ARCHIVE_ID))
    else:
        erased = await caller.memory.erase_session(session)
    caller.counted(erased.turns, session=session)
    return page(request, "forgotten", caller=caller, session=session, turn=turn, erased=erased)


def _field(value: str, name: str, form: re.Pattern[str]) -> str:
    if form.fullmatch(value) is None:
        raise InvalidParameterError(name, value, f"what matches {form.pattern}")
    return value
