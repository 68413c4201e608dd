"""The public application: every route of a tenant, and the document that describes them.

`/health` and `/live` are open.  Where there are no credentials only this machine
can ask, and the details of health and the metrics are here as well; else they
are on the operator's port alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from shepherd_http.limits import LoopbackHostOnly, SizeLimit
from shepherd_memory.api import facts, notices, problems, recall, sessions, whole
from shepherd_memory.api.access import Audited, Gate
from shepherd_memory.api.conditional import IdempotencyKeys

OPENAPI_VERSION = "1.0.0"
"""Of the interface; its first number changes when something is taken away."""


@dataclass(frozen=True, slots=True)
class Status:
    """What a process says of itself."""

    health: Callable[[], tuple[bool, dict[str, Any]]]
    """Whether all is well, and the document that says why."""
    metrics: Callable[[], bytes]


def public_app(gate: Gate, status: Status) -> FastAPI:
    """The application for tenants."""
    app = bare_app("Shepherd memory", gate)
    for part in (sessions, recall, facts, notices, whole):
        app.include_router(part.router)
    app.include_router(status_routes(status, detailed=gate.authenticator.is_open))
    return app


def bare_app(title: str, gate: Gate) -> FastAPI:
    """An application without routes: who may ask, how much, and how it is refused."""
    is_open = gate.authenticator.is_open
    app = _Application(
        title=title,
        version=OPENAPI_VERSION,
        summary=f"shepherd-worker {version('shepherd-worker')}",
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        middleware=[
            *([Middleware(LoopbackHostOnly)] if is_open else []),
            Middleware(Audited, gate=gate),
            Middleware(SizeLimit),
        ],
    )
    app.state.gate = gate
    app.state.idempotency_keys = IdempotencyKeys()
    problems.install(app)
    return app


class _Application(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """The document, with the schema that every refusal refers to."""
        document = super().openapi()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas["Problem"] = problems.Problem.model_json_schema()
        return document


def status_routes(status: Status, *, detailed: bool) -> APIRouter:
    """`/health`, `/live`, and with details `/metrics`."""
    router = APIRouter(tags=["open"])

    @router.get("/health", responses={503: {"description": "No worker can be followed."}})
    async def health() -> Response:
        """200 or 503, and why."""
        healthy, document = status.health()
        said = document if detailed else {"status": document["status"]}
        return JSONResponse(said, 200 if healthy else 503)

    @router.get("/live")
    async def live() -> dict[str, str]:
        """The event loop turns."""
        return {"status": "ok"}

    async def metrics(request: Request) -> Response:
        del request
        return Response(status.metrics(), media_type=CONTENT_TYPE_LATEST)

    if detailed:
        router.add_route("/metrics", metrics, include_in_schema=False)
    return router
