"""What a request's body must be before anything is done with it.  Pure.

Only what the gateway itself looks at is checked; all else is the frontend's.
"""

from __future__ import annotations

from typing import Any

import msgspec

from shepherd_gateway.errors import BadRequestError

MAX_DEPTH = 64
"""Of objects and lists in each other."""
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


def object_in(body: bytes) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        BadRequestError: it is none.
    """
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequestError("body", "", "a JSON object in UTF-8") from error
    if not isinstance(document, dict):
        raise BadRequestError("body", type(document).__name__, "a JSON object")
    if _is_deeper(document, MAX_DEPTH):
        raise BadRequestError("body", "", f"no more than {MAX_DEPTH} levels")
    return document


def check_chat(body: dict[str, Any], max_messages: int) -> None:
    """Check a chat completion request.

    Raises:
        BadRequestError: the first field that is wrong.
    """
    check_common(body)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequestError("messages", messages, "a list of messages")
    if len(messages) > max_messages:
        raise BadRequestError("messages", f"{len(messages)} messages", f"at most {max_messages}")
    for place, message in enumerate(messages):
        _check_message(f"messages[{place}]", message)
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise BadRequestError("stream_options", options, "an object")


def check_common(body: dict[str, Any]) -> None:
    """Check what all requests for an answer have.

    Raises:
        BadRequestError: the first field that is wrong.
    """
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise BadRequestError("model", body.get("model"), "a model's name")
    if not isinstance(body.get("stream", False), bool | None):
        raise BadRequestError("stream", body["stream"], "true or false")
    tools = body.get("tools")
    if tools is not None and not (
        isinstance(tools, list) and all(isinstance(each, dict) for each in tools)
    ):
        raise BadRequestError("tools", tools, "a list of tools")


def _check_message(field: str, message: Any) -> None:
    if not isinstance(message, dict):
        raise BadRequestError(field, message, "an object")
    if message.get("role") not in _ROLES:
        raise BadRequestError(f"{field}.role", message.get("role"), ", ".join(sorted(_ROLES)))
    content = message.get("content")
    if content is not None and not isinstance(content, str | list):
        raise BadRequestError(f"{field}.content", content, "text or a list of parts")
    calls = message.get("tool_calls")
    if calls is not None and not (
        isinstance(calls, list) and all(isinstance(each, dict) for each in calls)
    ):
        raise BadRequestError(f"{field}.tool_calls", calls, "a list of calls")


def _is_deeper(document: Any, depth: int) -> bool:
    level = [document]
    for _ in range(depth):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True
