"""From a request to the memory of the tenant whose credential it shows.

Every route takes a `Reader`, `Writer`, `Administrator` or `Operator`: there is no
other way to a `Memory`, so that no route can forget to ask.  What a caller did is
told to the audit log when the answer begins, whatever the answer is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Security
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shepherd_auth.audit import Audit, AuditEntry
from shepherd_auth.authenticator import TENANT_HEADER, Authenticator
from shepherd_auth.errors import AuthError, CredentialError, PermissionDeniedError
from shepherd_auth.identity import Identity
from shepherd_auth.identity import Scope as Right
from shepherd_auth.rate_limit import RateLimiter
from shepherd_memory.errors import InvalidParameterError, TooManyRequestsError
from shepherd_memory.memory import Memory
from shepherd_memory.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Gate:
    """What decides who comes in; one for all applications of the process."""

    authenticator: Authenticator
    limiter: RateLimiter
    audit: Audit
    metrics: Metrics
    memory_of: Callable[[str], Memory]
    """The memory of a tenant, by the tenant's own name."""
    monotonic_s: Callable[[], float]
    now_unix_s: Callable[[], float]

    def identify(self, request: Request) -> Identity:
        """Who sends a request; not yet narrowed to a tenant.

        Raises:
            CredentialError: nobody we know.
        """
        try:
            return self.authenticator.identify(request.headers)
        except CredentialError as error:
            self.metrics.auth_failures.labels(error.reason).inc()
            raise

    def admit(self, request: Request, right: Right) -> Caller:
        """Let a request in to its tenant.

        Raises:
            CredentialError: nobody we know.
            PermissionDeniedError: a right or the tenant is missing.
            TooManyRequestsError: the tenant asks too often.
        """
        identity = self.identify(request)
        _note(request, identity)
        try:
            identity = identity.narrowed(request.headers.get(TENANT_HEADER))
            identity.require(right)
        except PermissionDeniedError as error:
            self.metrics.access_denied.labels(error.needed).inc()
            raise
        _note(request, identity)
        wait_s = self.limiter.take(identity.tenant, self.monotonic_s())
        if wait_s:
            self.metrics.rate_limited.inc()
            raise TooManyRequestsError(wait_s, "this tenant asks too often")
        return Caller(identity, self.memory_of(identity.tenant), request)

    def admit_operator(self, request: Request) -> Identity:
        """Let in whoever runs the service.

        Raises:
            CredentialError: nobody we know.
            PermissionDeniedError: the credential is a tenant's.
        """
        identity = self.identify(request)
        _note(request, identity)
        if not (identity.is_operator or self.authenticator.is_open):
            self.metrics.access_denied.labels("operator").inc()
            raise PermissionDeniedError(
                "operator", "expected a key with the scope admin for any tenant (*)"
            )
        return identity


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and what they ask."""

    identity: Identity
    memory: Memory
    request: Request

    def counted(self, count: int, *, session: str = "") -> None:
        """Tell the audit log how many things were read, changed or removed, and of which session."""
        self.request.state.count = count
        self.request.state.session = session


_BEARER = HTTPBearer(auto_error=False, description="An API key or a JSON Web Token.")
_KEY = APIKeyHeader(name="x-api-key", auto_error=False, description="An API key.")
_Bearer = Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]
_Key = Annotated[str | None, Security(_KEY)]


async def _reader(request: Request, _: _Bearer, __: _Key) -> Caller:
    return _admitted(request, Right.READ)


async def _writer(request: Request, _: _Bearer, __: _Key) -> Caller:
    return _admitted(request, Right.WRITE)


async def _administrator(request: Request, _: _Bearer, __: _Key) -> Caller:
    return _admitted(request, Right.ADMIN)


async def _operator(request: Request, _: _Bearer, __: _Key) -> Identity:
    identity = gate_of(request).admit_operator(request)
    _refuse_unknown_parameters(request)
    return identity


Reader = Annotated[Caller, Depends(_reader)]
Writer = Annotated[Caller, Depends(_writer)]
Administrator = Annotated[Caller, Depends(_administrator)]
Operator = Annotated[Identity, Depends(_operator)]


def gate_of(request: Request) -> Gate:
    """The gate of the application that serves a request."""
    gate: Gate = request.app.state.gate
    return gate


def _admitted(request: Request, right: Right) -> Caller:
    caller = gate_of(request).admit(request, right)
    _refuse_unknown_parameters(request)
    return caller


def _refuse_unknown_parameters(request: Request) -> None:
    """A misspelt filter must not mean no filter."""
    route: APIRoute = request.scope["route"]
    known = {each.alias for each in route.dependant.query_params}
    for name in request.query_params:
        if name not in known:
            limit = f"one of {', '.join(sorted(known))}" if known else "no parameters"
            raise InvalidParameterError("query", name, limit)
        if len(request.query_params.getlist(name)) > 1:
            raise InvalidParameterError(name, request.query_params[name], "one value")


def _note(request: Request, identity: Identity) -> None:
    request.state.subject, request.state.tenant = identity.subject, identity.tenant


class Audited:
    """ASGI middleware that tells the audit log of every request to a route that admits callers."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, and record when the answer begins or fails to."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = False

        def tell(status: int) -> None:
            nonlocal told
            route = scope.get("route")
            if told or route is None or not getattr(route, "name", "") or _is_open(route):
                return
            told = True
            self._gate.audit.record(_entry(scope, route.name, status, self._gate.now_unix_s()))

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                tell(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except AuthError:
            raise
        except Exception:
            tell(500)
            raise


def _is_open(route: Any) -> bool:
    return "open" in (getattr(route, "tags", None) or ())


def _entry(scope: Scope, action: str, status: int, now_unix_s: float) -> AuditEntry:
    state = scope.get("state", {})
    return AuditEntry(
        at_unix_s=now_unix_s,
        subject=state.get("subject", ""),
        tenant=state.get("tenant", ""),
        action=action,
        status=status,
        count=state.get("count"),
        session=state.get("session", ""),
    )
