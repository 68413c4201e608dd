"""Parameters as HTTP carries them, and what is said of wrong ones.

Every refusal is an `application/problem+json` document (RFC 9457) that names
the field, the value as received, cut short, and what was expected.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from shepherd_memory.errors import InvalidParameterError, UnknownItemError

MAX_ID_CHARS = 256
_ID = re.compile(rf"[\x21-\x7e]{{1,{MAX_ID_CHARS}}}")


class Parameters:
    """The query of one request; a name that is not expected is refused."""

    def __init__(self, request: Request, allowed: Collection[str]) -> None:
        """Look at the names.

        Raises:
            InvalidParameterError: one is unknown, or given twice.
        """
        self._query = request.query_params
        for name in self._query:
            if name not in allowed:
                limit = f"one of {', '.join(sorted(allowed))}" if allowed else "no parameters"
                raise InvalidParameterError("query", name, limit, status=400)
            if len(self._query.getlist(name)) > 1:
                raise InvalidParameterError(name, self._query[name], "one value", status=400)

    def text(self, name: str, default: str = "", *, max_chars: int = MAX_ID_CHARS) -> str:
        """Any text up to a length."""
        value = self._query.get(name, default)
        if len(value) > max_chars:
            raise InvalidParameterError(name, value, f"at most {max_chars} characters")
        return value

    def required(self, name: str) -> str:
        """Text that must be there and not be blank; its length is the callee's business."""
        if name not in self._query:
            raise InvalidParameterError(name, "", "a value", status=400)
        value = self._query[name]
        if not value.strip():
            raise InvalidParameterError(name, value, "at least one word")
        return value

    def integer(self, name: str, default: int, *, at_most: int, at_least: int = 0) -> int:
        """A whole number within bounds."""
        expected = f"an integer from {at_least} to {at_most}"
        value = self._query.get(name, str(default))
        if not re.fullmatch(r"-?[0-9]{1,20}", value, re.ASCII):
            raise InvalidParameterError(name, value, expected, status=400)
        if not at_least <= int(value) <= at_most:
            raise InvalidParameterError(name, value, expected)
        return int(value)

    def session(self) -> str | None:
        """The session's id; None where none is named."""
        return valid_id("session", self._query["session"]) if "session" in self._query else None

    def choice(self, name: str, choices: Collection[str]) -> str | None:
        """One of some words; None where none is named."""
        value = self._query.get(name)
        if value is not None and value not in choices:
            raise InvalidParameterError(name, value, f"one of {', '.join(choices)}")
        return value


def valid_id(field: str, value: str) -> str:
    """A visible ASCII word.

    Raises:
        InvalidParameterError: it is anything else.
    """
    if not _ID.fullmatch(value):
        raise InvalidParameterError(field, value, f"1 to {MAX_ID_CHARS} visible ASCII characters")
    return value


def invalid_parameter(_: Request, error: Exception) -> JSONResponse:
    """400 or 422."""
    assert isinstance(error, InvalidParameterError)
    return _problem(
        error.status, str(error), field=error.field, value=error.value, limit=error.limit
    )


def unknown_item(_: Request, error: Exception) -> JSONResponse:
    """404, the same for what never was and for what belongs to somebody else."""
    assert isinstance(error, UnknownItemError)
    return _problem(404, str(error), field=error.kind, value=error.name)


def refused_by_routing(_: Request, error: Exception) -> JSONResponse:
    """404 for an unknown path, 405 for a wrong method."""
    assert isinstance(error, HTTPException)
    return _problem(error.status_code, error.detail, headers=error.headers)


def internal_error(_: Request, error: Exception) -> JSONResponse:
    """500 without a word of what went wrong; the log has it."""
    del error
    return _problem(500, "something went wrong here; the log has the details")


def _problem(
    status: int, detail: str, *, headers: Mapping[str, str] | None = None, **fields: str
) -> JSONResponse:
    content = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **fields,
    }
    return JSONResponse(content, status, headers, media_type="application/problem+json")
