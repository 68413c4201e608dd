"""What is said of requests that are refused.

Every refusal is an `application/problem+json` document (RFC 9457) that names,
where there is one, the field, the value as received, cut short, and what was
expected.  422: a value is wrong; 400: the request cannot be read at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from shepherd_auth.errors import CredentialError, PermissionDeniedError
from shepherd_http.problems import MEDIA_TYPE, problem
from shepherd_memory.errors import (
    ConflictError,
    InvalidParameterError,
    StoreUnavailableError,
    TooManyRequestsError,
    UnknownItemError,
)

MAX_SHOWN_CHARS = 64
STORE_RETRY_S = 1


class Problem(BaseModel):
    """A refusal; fields that do not apply are absent."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    field: str | None = None
    """The parameter, header or field of the body that is wrong."""
    value: str | None = None
    """Its beginning, as it was received."""
    limit: str | None = None
    """What was expected."""


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How a route's refusals stand in the OpenAPI document; 401, 403, 422, 429 and 500 always may come."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        for status in sorted({400, 401, 403, 422, 429, 500, 503, *statuses})
    }


def install(app: FastAPI) -> None:
    """Answer every error of ours, of the framework and of nobody with a problem."""
    handlers: dict[type[Exception], Callable[[Request, Any], JSONResponse]] = {
        RequestValidationError: _validation,
        InvalidParameterError: _invalid_parameter,
        UnknownItemError: _unknown_item,
        ConflictError: _conflict,
        TooManyRequestsError: _too_many_requests,
        StoreUnavailableError: _unavailable,
        CredentialError: _unknown_caller,
        PermissionDeniedError: _denied,
        HTTPException: _refused_by_routing,
        Exception: _internal_error,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _validation(_: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return problem(400, "the body is not JSON", field="body", limit="a JSON document")
    place = [str(part) for part in first["loc"][1:]] or [str(part) for part in first["loc"]]
    value = "" if first["type"] == "missing" else str(first.get("input", ""))[:MAX_SHOWN_CHARS]
    field, limit = ".".join(place), str(first["msg"])
    detail = f"{field}={value!r} is not valid: {limit}"
    return problem(422, detail, field=field, value=value, limit=limit)


def _invalid_parameter(_: Request, error: InvalidParameterError) -> JSONResponse:
    return problem(
        error.status, str(error), field=error.field, value=error.value, limit=error.limit
    )


def _unknown_item(_: Request, error: UnknownItemError) -> JSONResponse:
    """The same for what never was and for what belongs to somebody else."""
    return problem(404, str(error), field=error.kind, value=error.name[:MAX_SHOWN_CHARS])


def _conflict(_: Request, error: ConflictError) -> JSONResponse:
    return problem(409, str(error), field=error.field)


def _too_many_requests(_: Request, error: TooManyRequestsError) -> JSONResponse:
    seconds = str(max(1, math.ceil(error.retry_after_s)))
    return problem(429, str(error), headers={"retry-after": seconds})


def _unavailable(_: Request, error: StoreUnavailableError) -> JSONResponse:
    return problem(503, error.FOR_CALLERS, headers={"retry-after": str(STORE_RETRY_S)})


def _unknown_caller(_: Request, error: CredentialError) -> JSONResponse:
    return problem(401, str(error), headers={"www-authenticate": "Bearer"})


def _denied(_: Request, error: PermissionDeniedError) -> JSONResponse:
    return problem(403, str(error), field=error.needed)


def _refused_by_routing(_: Request, error: HTTPException) -> JSONResponse:
    """404 for an unknown path, 405 for a wrong method."""
    return problem(error.status_code, error.detail, headers=error.headers)


def _internal_error(_: Request, error: Exception) -> JSONResponse:
    """500 without a word of what went wrong; the log has it."""
    del error
    return problem(500, "something went wrong here; the log has the details")
