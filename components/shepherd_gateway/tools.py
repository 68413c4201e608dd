"""The memory's tools within a model's answer: who answers which call, and when it ends.

The gateway answers calls of the memory's tools itself and asks the model again
with the results; the client never sees them.  All other calls are the client's.
Where one answer calls both, the memory's are answered first and the model is
asked again with what was found, so that it makes the client's calls knowing it:
nothing has to be kept between two requests.  In the last round the memory's
tools are not offered any more.  Pure.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

UNREADABLE = "Error: the arguments are not a JSON object. Call again with valid JSON."


@dataclass(slots=True)
class Call:
    """One call, put together from its pieces."""

    call_id: str = ""
    name: str = ""
    arguments: str = ""

    def add(self, piece: Mapping[str, Any]) -> None:
        """Take a piece of it as it streams."""
        function = piece.get("function") or {}
        self.call_id = piece.get("id") or self.call_id
        self.name = function.get("name") or self.name
        self.arguments += function.get("arguments") or ""

    def parsed(self) -> dict[str, Any] | None:
        """The arguments; None where they cannot be read."""
        try:
            arguments = msgspec.json.decode(self.arguments or "{}")
        except msgspec.DecodeError:
            return None
        return arguments if isinstance(arguments, dict) else None

    def document(self) -> dict[str, Any]:
        """As a message of the history tells it."""
        arguments = self.arguments if self.parsed() is not None else "{}"
        function = {"name": self.name, "arguments": arguments}
        return {"id": self.call_id, "type": "function", "function": function}


@dataclass(slots=True)
class Round:
    """One answer of the model while it streams: what may go on, what is held back."""

    ours: Collection[str]
    """Names of the memory's tools."""
    said: list[str] = field(default_factory=list)
    """Its text, piece by piece."""
    calls: dict[int, Call] = field(default_factory=dict)
    held: list[dict[str, Any]] = field(default_factory=list)
    """Pieces that must not be passed on before it is known whose the calls are."""
    usage: dict[str, Any] | None = None

    def take(self, chunk: dict[str, Any]) -> bool:
        """Note what a piece says; whether it may be passed on at once."""
        if chunk.get("usage"):
            self.usage = chunk["usage"]
        choices = chunk.get("choices") or []
        if not choices:
            return False
        delta = choices[0].get("delta") or {}
        if isinstance(delta.get("content"), str):
            self.say(delta["content"])
        for piece in delta.get("tool_calls") or ():
            self.calls.setdefault(index_of(piece), Call()).add(piece)
        ends = self.calls and choices[0].get("finish_reason")
        if self.ours and (delta.get("tool_calls") or ends):
            self.held.append(chunk)
            return False
        return True

    def say(self, text: str | None) -> None:
        """Note a piece that says something, or nothing, and may be passed on."""
        if text:
            self.said.append(text)

    @property
    def content(self) -> str:
        """What it said so far."""
        return "".join(self.said)

    @property
    def our_calls(self) -> list[Call]:
        """The memory's, in order."""
        return [call for _, call in sorted(self.calls.items()) if call.name in self.ours]

    def rest(self) -> list[dict[str, Any]]:
        """What was held back, without the memory's calls; the end says what is left."""
        num_theirs = sum(call.name not in self.ours for call in self.calls.values())
        return [each for chunk in self.held if (each := self._without_ours(chunk, num_theirs))]

    def _without_ours(self, chunk: dict[str, Any], num_theirs: int) -> dict[str, Any] | None:
        if not self.our_calls:
            return chunk
        chunk = copy.deepcopy(chunk)
        choice = chunk["choices"][0]
        delta = choice.get("delta") or {}
        pieces = delta.pop("tool_calls", None) or ()
        theirs = [each for each in pieces if self.calls[index_of(each)].name not in self.ours]
        if theirs:
            delta["tool_calls"] = theirs
        if choice.get("finish_reason") == "tool_calls" and not num_theirs:
            choice["finish_reason"] = "stop"
        return chunk if theirs or choice.get("finish_reason") else None


def offered(
    body: Mapping[str, Any], tools: Sequence[Mapping[str, Any]], names: Collection[str]
) -> list[Mapping[str, Any]]:
    """The memory's tools that a request can offer beside the client's own.

    None where the client has one of that name, wants several answers, or no calls at all.
    """
    theirs = {name_of(each) for each in body.get("tools") or ()}
    if body.get("tool_choice") == "none" or (body.get("n") or 1) != 1:
        return []
    return [each for each in tools if name_of(each) in names and name_of(each) not in theirs]


def name_of(tool: Any) -> str:
    """The name of a function that a request offers; empty where it has none."""
    function = tool.get("function") if isinstance(tool, dict) else None
    return str(function.get("name", "")) if isinstance(function, dict) else ""


def with_tools(body: Mapping[str, Any], tools: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The request with more tools, behind the client's own."""
    more = list(tools)
    return {**body, "tools": [*(body.get("tools") or ()), *more]} if more else dict(body)


def answered(content: str, calls: Sequence[Call], results: Sequence[str]) -> list[dict[str, Any]]:
    """The messages that tell the model of its calls and what came of them."""
    said = {
        "role": "assistant",
        "content": content or None,
        "tool_calls": [call.document() for call in calls],
    }
    told = [
        {"role": "tool", "tool_call_id": call.call_id, "name": call.name, "content": result}
        for call, result in zip(calls, results, strict=True)
    ]
    return [said, *told]


def without_calls(message: Mapping[str, Any], ours: Collection[str]) -> dict[str, Any]:
    """A whole answer's message without the memory's calls."""
    theirs = [each for each in message.get("tool_calls") or () if name_of(each) not in ours]
    left = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**left, "tool_calls": theirs} if theirs else left


def added(total: dict[str, Any] | None, usage: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The usage of two rounds together, details included."""
    if usage is None or total is None:
        return dict(usage) if usage is not None else total
    sums = dict(total)
    for name, value in usage.items():
        before = sums.get(name)
        if isinstance(value, dict):
            sums[name] = added(before if isinstance(before, dict) else None, value)
        elif isinstance(value, int) and isinstance(before, int):
            sums[name] = before + value
        elif before is None:
            sums[name] = value
    return sums


def index_of(piece: Mapping[str, Any]) -> int:
    """Which of the calls a piece belongs to."""
    return int(piece.get("index") or 0)
