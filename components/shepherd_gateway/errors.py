"""What can go wrong between a client and the model.

GatewayError
|-- BadRequestError          the client's fault: 4xx, names the field
|-- UpstreamError            the frontend refused or broke; its own words go to the client
|-- OutdatedError            the memory holds more than was known: the request is made anew
|-- MemoryUnavailableError   the memory is down, slow or refuses us: the chat goes on without it
`-- MemoryRefusedError       the memory could not do what the model asked: the model is told
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shepherd_gateway.archived import SessionView

MAX_SHOWN_CHARS = 64


class GatewayError(Exception):
    """Root of this package's errors."""


class BadRequestError(GatewayError):
    """A request that no retry will make right."""

    def __init__(self, field: str, value: object, expected: str, *, status: int = 400) -> None:
        self.field = field
        self.status = status
        shown = str(value)[:MAX_SHOWN_CHARS]
        super().__init__(f"{field}={shown!r} is not valid: expected {expected}")


class UpstreamError(GatewayError):
    """The frontend's refusal, or that there is none to ask."""

    def __init__(
        self, status: int, message: str, *, reason: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self.status = status
        self.reason = reason
        """For counters: `refused`, `unreachable`, `broken_off`, `timeout` or `overloaded`."""
        self.headers = dict(headers or {})
        super().__init__(message)


class OutdatedError(GatewayError):
    """What a request was made of is not what the memory holds by now."""

    def __init__(self, view: SessionView) -> None:
        self.view = view
        """What it holds."""
        super().__init__("the memory holds something else than was known")


class MemoryUnavailableError(GatewayError):
    """The memory does not answer in time or as it should."""


class MemoryRefusedError(GatewayError):
    """The memory answered that a call cannot be done."""


def error_document(
    status: int, message: str, *, field: str | None = None, kind: str = ""
) -> dict[str, Any]:
    """An error in OpenAI's form; `kind` is told by the status where it is empty."""
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    default = "server_error" if status >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": message,
            "type": kind or kinds.get(status, default),
            "param": field,
            "code": status,
        }
    }
