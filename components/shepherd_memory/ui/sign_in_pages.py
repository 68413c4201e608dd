"""Entering an API key, and leaving."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from shepherd_auth.errors import AuthError, CredentialError
from shepherd_auth.identity import Scope
from shepherd_memory.api.access import gate_of
from shepherd_memory.ui.forms import Form, ProvenForm
from shepherd_memory.ui.rendering import page
from shepherd_memory.ui.sign_in import COOKIE, LIFETIME_S, SignIn, SignIns, cookie_of

router = APIRouter()

_Next = Annotated[str, Query(alias="next", max_length=4096)]


@router.get("/sign-in", tags=["open"])
async def sign_in_form(request: Request, following: _Next = "") -> Response:
    """The form; who needs no credential is led on."""
    sign_ins: SignIns = request.app.state.sign_ins
    if gate_of(request).authenticator.is_open or sign_ins.of(cookie_of(request.headers)):
        return RedirectResponse(_inside(request, following), 303)
    return page(request, "sign_in", caller=None, following=following, tenant_name="", refusal="")


@router.post("/sign-in")
async def sign_in(request: Request, fields: Form) -> Response:
    """Look at the credential as the gate does; the browser gets a cookie for it."""
    sign_ins: SignIns = request.app.state.sign_ins
    credential, tenant = fields.get("key", "").strip(), fields.get("tenant", "").strip()
    following = fields.get("next", "")
    request.state.subject = ""
    shown = SignIn(credential, tenant, 0.0).shown_in(request.scope["headers"])
    asked = Request({**request.scope, "headers": shown})
    try:
        gate_of(request).admit(asked, Scope.READ)
    except AuthError as error:
        status = 401 if isinstance(error, CredentialError) else 403
        values = {"following": following, "tenant_name": tenant, "refusal": str(error)}
        return page(request, "sign_in", caller=None, status=status, **values)
    answer = RedirectResponse(_inside(request, following), 303)
    answer.set_cookie(
        COOKIE,
        sign_ins.begin(credential, tenant),
        max_age=LIFETIME_S,
        path=request.scope.get("root_path", "") or "/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return answer


@router.post("/sign-out", tags=["open"])
async def sign_out(request: Request, _: ProvenForm) -> Response:
    """Forget what the cookie stands for."""
    sign_ins: SignIns = request.app.state.sign_ins
    sign_ins.end(cookie_of(request.headers))
    answer = RedirectResponse(f"{request.scope.get('root_path', '')}/sign-in", 303)
    answer.delete_cookie(COOKIE, path=request.scope.get("root_path", "") or "/")
    return answer


def _inside(request: Request, following: str) -> str:
    """Where to go on: a page of ours, whatever was asked for."""
    base = f"{request.scope.get('root_path', '')}/"
    is_ours = following.startswith(base) and following.isprintable() and "\\" not in following
    return following if is_ours and ".." not in following else base
