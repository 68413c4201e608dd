"""The application that is mounted under /ui: a door like the others, for people.

Callers come in through the same gate; what is refused is refused for the same
reasons and said on a page.  Who shows no credential is asked for one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from shepherd_auth.errors import CredentialError
from shepherd_memory.api import problems
from shepherd_memory.api.access import Audited, Gate
from shepherd_memory.ui import changes, live, sign_in_pages, views
from shepherd_memory.ui.headers import SafeHeaders
from shepherd_memory.ui.rendering import HERE, page
from shepherd_memory.ui.sign_in import CookieCredential, SignIns, cookie_of


def ui_app(gate: Gate) -> FastAPI:
    """The pages of all tenants."""
    sign_ins = SignIns(monotonic_s=gate.monotonic_s)
    app = FastAPI(
        openapi_url=None,
        middleware=[
            Middleware(SafeHeaders),
            Middleware(CookieCredential, sign_ins=sign_ins),
            Middleware(Audited, gate=gate),
        ],
    )
    app.state.gate = gate
    app.state.sign_ins = sign_ins
    for part in (views, changes, live, sign_in_pages):
        app.include_router(part.router)
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    problems.install(app)
    for kind, handler in list(app.exception_handlers.items()):
        app.add_exception_handler(kind, _as_page(handler))
    app.add_exception_handler(CredentialError, _ask_for_credential)
    return app


def _as_page(
    handler: Callable[[Request, Any], Any],
) -> Callable[[Request, Exception], Response]:
    """The same refusal for people to read."""

    def refuse(request: Request, error: Exception) -> Response:
        answer: JSONResponse = handler(request, error)
        said = json.loads(bytes(answer.body))
        shown = page(request, "refusal", caller=None, status=answer.status_code, said=said)
        for name in ("retry-after", "allow"):
            if name in answer.headers:
                shown.headers[name] = answer.headers[name]
        return shown

    return refuse


def _ask_for_credential(request: Request, error: Exception) -> Response:
    """Lead to the form; whoever is led back has asked for a page, not for a change.

    A cookie whose credential was accepted once and no longer is stands for nothing any more.
    """
    del error
    sign_ins: SignIns = request.app.state.sign_ins
    sign_ins.end(cookie_of(request.headers))
    base = request.scope.get("root_path", "")
    following = request.url.path
    if request.url.query:
        following += f"?{request.url.query}"
    query = f"?{urlencode({'next': following})}" if request.method == "GET" else ""
    return RedirectResponse(f"{base}/sign-in{query}", 303)
