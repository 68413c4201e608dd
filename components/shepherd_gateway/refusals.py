"""Every error as an answer in OpenAI's form.  Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from shepherd_auth.errors import CredentialError, PermissionDeniedError
from shepherd_gateway.access import TooManyRequestsError
from shepherd_gateway.errors import BadRequestError, UpstreamError, error_document
from shepherd_gateway.seats import NoSeatError

_WAIT_S = 1.0
"""When to come back where nobody can say."""
EXPECTED = (
    *(BadRequestError, CredentialError, PermissionDeniedError),
    *(NoSeatError, TooManyRequestsError, UpstreamError),
)
"""What tells of the request, not of a fault of ours."""


def refusal_of(error: Exception) -> Response:
    """The answer; what is a fault of ours is not told to clients."""
    match error:
        case BadRequestError():
            return _refused(error.status, str(error), field=error.field)
        case CredentialError():
            return _refused(401, str(error), headers={"www-authenticate": "Bearer"})
        case PermissionDeniedError():
            return _refused(403, str(error), field=error.needed)
        case TooManyRequestsError() | NoSeatError():
            wait_s = error.wait_s if isinstance(error, TooManyRequestsError) else _WAIT_S
            seconds = str(max(1, math.ceil(wait_s)))
            return _refused(429, str(error), headers={"retry-after": seconds})
        case UpstreamError():
            return _refused(error.status, str(error), headers=error.headers)
    return _refused(500, "something went wrong here; the log has the details")


async def no_such_route(request: Request, error: Exception) -> Response:
    """404 for an unknown path, 405 for a wrong method."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path[:200]}: {error.detail}"
    return _refused(error.status_code, message, headers=error.headers)


def document(
    content: Any, headers: Mapping[str, str] | None = None, *, status: int = 200
) -> Response:
    """A JSON answer."""
    body = msgspec.json.encode(content)
    return Response(body, status, headers, media_type="application/json")


def _refused(
    status: int,
    message: str,
    *,
    field: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    return document(error_document(status, message, field=field), headers, status=status)
