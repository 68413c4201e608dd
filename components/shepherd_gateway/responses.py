"""OpenAI's responses API on top of chat completions: requests in, whole answers out.

The gateway keeps no conversations, so `previous_response_id`, `conversation`,
`store: true` and `background: true` are refused with what to do instead: send the
whole input, as with `store: false`.  What cannot be told in a chat completion is
refused as well, never passed over.  Pure.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shepherd_gateway.errors import BadRequestError

_SAME = ("model", "stream", "temperature", "top_p", "user", "metadata", "parallel_tool_calls")
"""Fields that mean the same in both."""
_NEEDS_STATE = {
    "previous_response_id": "nothing: send the whole conversation as input",
    "conversation": "nothing: send the whole conversation as input, its name as x-dynamo-session-id",
    "prompt": "nothing: prompts are not kept here",
}
_PASSED_OVER = frozenset({
    *("include", "service_tier", "prompt_cache_key", "safety_identifier", "stream_options"),
    *("top_logprobs", "max_tool_calls", "prompt_cache_retention", "text", "reasoning"),
    *("truncation", "store", "background", "input", "instructions", "tools", "tool_choice"),
    "max_output_tokens",
})  # fmt: skip
"""Fields that are read here, or that change nothing of an answer's meaning."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and the chat completion that it becomes."""

    body: Mapping[str, Any]
    chat: dict[str, Any]
    response_id: str


def read(body: dict[str, Any]) -> Asked:
    """Understand a request.

    Raises:
        BadRequestError: the first field that is wrong or cannot be done.
    """
    _refuse_what_needs_state(body)
    chat = {name: body[name] for name in _SAME if body.get(name) is not None}
    chat["messages"] = _messages(body)
    if body.get("max_output_tokens") is not None:
        chat["max_tokens"] = body["max_output_tokens"]
    if body.get("tools"):
        chat["tools"] = [_tool(place, each) for place, each in enumerate(_listed(body, "tools"))]
        if (choice := body.get("tool_choice")) is not None:
            chat["tool_choice"] = _tool_choice(choice)
    if (form := _response_format(body.get("text"))) is not None:
        chat["response_format"] = form
    if chat.get("stream"):
        chat["stream_options"] = {"include_usage": True}
    reasoning = body.get("reasoning")
    if isinstance(reasoning, dict) and reasoning.get("effort"):
        chat["reasoning_effort"] = reasoning["effort"]
    return Asked(body, chat, f"resp_{uuid.uuid4().hex}")


def whole(asked: Asked, answer: Mapping[str, Any]) -> dict[str, Any]:
    """The response that a chat completion is."""
    choice = (answer.get("choices") or [{}])[0]
    message = choice.get("message") or {}
    output: list[dict[str, Any]] = []
    if message.get("content") or not message.get("tool_calls"):
        output.append(message_item(message.get("content") or ""))
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        output.append(
            call_item(
                str(call.get("id")), str(function.get("name")), str(function.get("arguments"))
            )
        )
    is_cut = choice.get("finish_reason") == "length"
    return document(
        asked,
        output=output,
        created=int(answer.get("created") or 0),
        model=answer.get("model"),
        status="incomplete" if is_cut else "completed",
        usage=answer.get("usage"),
    )


def document(
    asked: Asked,
    *,
    output: list[dict[str, Any]],
    created: int,
    status: str,
    model: Any = None,
    usage: Mapping[str, Any] | None = None,
    error: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A response as it is answered."""
    body = asked.body
    is_cut = status == "incomplete"
    return {
        "id": asked.response_id,
        "object": "response",
        "created_at": created,
        "status": status,
        "error": error,
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": body.get("metadata") or {},
        "model": model or body.get("model"),
        "output": output,
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "store": False,
        "temperature": body.get("temperature"),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_p": body.get("top_p"),
        "truncation": "disabled",
        "usage": None if usage is None else _usage(usage),
    }


def message_item(text: str, *, item_id: str = "", status: str = "completed") -> dict[str, Any]:
    """What the assistant said."""
    content = [text_part(text)] if status == "completed" else []
    return {
        "type": "message",
        "id": item_id or f"msg_{uuid.uuid4().hex}",
        "status": status,
        "role": "assistant",
        "content": content,
    }


def text_part(text: str) -> dict[str, Any]:
    """Text of what was said."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def call_item(
    call_id: str, name: str, arguments: str, *, item_id: str = "", status: str = "completed"
) -> dict[str, Any]:
    """A call for the client."""
    return {
        "type": "function_call",
        "id": item_id or f"fc_{uuid.uuid4().hex}",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
        "status": status,
    }


def _refuse_what_needs_state(body: Mapping[str, Any]) -> None:
    for field, expected in _NEEDS_STATE.items():
        if body.get(field) is not None:
            raise BadRequestError(field, body[field], expected)
    if body.get("store") is True:
        raise BadRequestError("store", True, "false: responses are not kept here")
    if body.get("background") is True:
        raise BadRequestError("background", True, "false: responses are not kept here")
    if body.get("truncation") not in {None, "disabled", "auto"}:
        raise BadRequestError("truncation", body["truncation"], "auto or disabled")
    for field in body:
        if field not in _PASSED_OVER and field not in _SAME and field not in _NEEDS_STATE:
            raise BadRequestError(field, body[field], "no such field, or one that is known here")


def _messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    instructions = body.get("instructions")
    if instructions is not None:
        if not isinstance(instructions, str):
            raise BadRequestError("instructions", instructions, "text")
        messages.append({"role": "system", "content": instructions})
    given = body.get("input")
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    for place, item in enumerate(_listed(body, "input")):
        _add(messages, f"input[{place}]", item)
    return messages


def _add(messages: list[dict[str, Any]], field: str, item: dict[str, Any]) -> None:
    kind = item.get("type") or "message"
    if kind == "message":
        messages.append({"role": item.get("role"), "content": _content(field, item.get("content"))})
    elif kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments") or "{}"}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        if not messages or messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant", "content": None})
        messages[-1].setdefault("tool_calls", []).append(call)
    elif kind == "function_call_output":
        content = _content(f"{field}.output", item.get("output"))
        messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
    elif kind != "reasoning":  # what a model thought is no part of its history
        expected = "message, function_call, function_call_output or reasoning"
        raise BadRequestError(f"{field}.type", kind, expected)


def _content(field: str, content: Any) -> Any:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRequestError(f"{field}.content", content, "text or a list of parts")
    parts = [_part(f"{field}.content[{place}]", each) for place, each in enumerate(content)]
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _part(field: str, part: Any) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in {"input_text", "output_text", "text"} and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "refusal":
        return {"type": "text", "text": str(part.get("refusal", ""))}
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        return {"type": "image_url", "image_url": {"url": part["image_url"]}}
    raise BadRequestError(field, kind, "input_text, output_text or input_image with an image_url")


def _tool(place: int, tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function" or not isinstance(tool.get("name"), str):
        raise BadRequestError(f"tools[{place}].type", tool.get("type"), "function, with a name")
    names = ("name", "description", "parameters", "strict")
    function = {name: tool[name] for name in names if tool.get(name) is not None}
    return {"type": "function", "function": function}


def _tool_choice(choice: Any) -> Any:
    if choice in {"auto", "none", "required"} if isinstance(choice, str) else False:
        return choice
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    raise BadRequestError("tool_choice", choice, "auto, none, required or a function")


def _response_format(text: Any) -> dict[str, Any] | None:
    form = text.get("format") if isinstance(text, dict) else None
    if not isinstance(form, dict) or form.get("type") == "text":
        return None
    kind = form.get("type")
    if kind == "json_object":
        return {"type": kind}
    if kind == "json_schema":
        schema = {name: value for name, value in form.items() if name != "type"}
        return {"type": kind, "json_schema": schema}
    raise BadRequestError("text.format.type", kind, "text, json_object or json_schema")


def _usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    prompt, completion = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    read_ = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    thought = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": read_, "cache_write_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": usage.get("total_tokens") or prompt + completion,
    }


def _listed(body: Mapping[str, Any], field: str) -> list[dict[str, Any]]:
    items = body.get(field)
    if not isinstance(items, list) or not all(isinstance(each, dict) for each in items):
        raise BadRequestError(field, items, "a list of objects")
    return items
