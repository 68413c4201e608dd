"""From a request to the tenant whose credential it shows, and to its session."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from shepherd_auth.authenticator import TENANT_HEADER, Authenticator
from shepherd_auth.errors import CredentialError
from shepherd_auth.identity import Scope
from shepherd_auth.rate_limit import RateLimiter
from shepherd_auth.tenant_salts import TenantSalts
from shepherd_gateway.errors import BadRequestError
from shepherd_gateway.metrics import Metrics
from shepherd_telemetry.trace_context import current_traceparent

SESSION_HEADERS = ("x-dynamo-session-id", "x-session-id")
"""Where a session's name may stand, the first one first; else in `metadata.session_id`."""
FORWARDED = (
    "x-dynamo-parent-session-id",
    "x-dynamo-session-final",
    "x-dynamo-request-id",
    "x-request-id",
    "traceparent",
    "tracestate",
)
"""Headers of the client's that go upstream as they are."""

_SESSION = re.compile(r"[\x21-\x7e]{1,256}")


class TooManyRequestsError(Exception):
    """A tenant asks too often, or everybody does at once."""

    def __init__(self, wait_s: float, message: str) -> None:
        self.wait_s = wait_s
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Gate:
    """What decides who comes in."""

    authenticator: Authenticator
    limiter: RateLimiter
    salts: TenantSalts | None
    metrics: Metrics
    monotonic_s: Callable[[], float]

    def admit(self, headers: Mapping[str, str], *scopes: Scope) -> str:
        """The tenant of a request that may go on.

        Raises:
            CredentialError: nobody we know.
            PermissionDeniedError: a right or the tenant is missing.
            TooManyRequestsError: the tenant asks too often.
        """
        try:
            identity = self.authenticator.identify(headers)
        except CredentialError as error:
            self.metrics.auth_failures.labels(error.reason).inc()
            raise
        identity = identity.narrowed(headers.get(TENANT_HEADER))
        for scope in scopes:
            identity.require(scope)
        wait_s = self.limiter.take(identity.tenant, self.monotonic_s())
        if wait_s:
            self.metrics.rate_limited.labels("tenant").inc()
            raise TooManyRequestsError(wait_s, "this tenant asks too often")
        return identity.tenant

    def salt_of(self, tenant: str) -> str:
        """The cache salt of a tenant's requests; none for `local`."""
        return self.salts.salt_of(tenant) if self.salts is not None else ""


def session_of(headers: Mapping[str, str], body: Mapping[str, Any]) -> str:
    """The session that a request names; empty where it names none.

    Raises:
        BadRequestError: nothing can have that name.
    """
    for field in SESSION_HEADERS:
        if name := headers.get(field, ""):
            return _checked(field, name)
    metadata = body.get("metadata")
    named = metadata.get("session_id") if isinstance(metadata, dict) else None
    return _checked("metadata.session_id", named) if named else ""


def forwarded(headers: Mapping[str, str], session: str) -> dict[str, str]:
    """The headers that go upstream."""
    sent = {field: value for field in FORWARDED if (value := headers.get(field))}
    if trace := current_traceparent():
        sent["traceparent"] = trace
    return {**sent, "x-dynamo-session-id": session} if session else sent


def salted(body: Mapping[str, Any], salt: str) -> dict[str, Any]:
    """The request under its tenant's salt; what the client says of salts does not count."""
    sent = {name: value for name, value in body.items() if name != "cache_salt"}
    extension = sent.get("nvext")
    if isinstance(extension, dict):
        sent["nvext"] = {name: each for name, each in extension.items() if name != "cache_salt"}
    return {**sent, "cache_salt": salt} if salt else sent


def _checked(field: str, name: object) -> str:
    if not isinstance(name, str) or not _SESSION.fullmatch(name):
        raise BadRequestError(field, name, "1 to 256 visible ASCII characters")
    return name
