"""What a request asks of the answer's text: guided decoding and logits processors.

Dynamo's frontend makes `guided_decoding` of OpenAI's `response_format`, of forced
tool calls and of `guided_json`, `guided_regex`, `guided_choice`, `guided_grammar`.  It
knows no logits processors, and refuses fields that it does not know; what it hands
over as it was written are the strings of `nvext.annotations`:

    logits_processor:NAME
    logits_processor:NAME:{"argument": value, ...}
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from shepherd_worker.errors import InvalidRequestError
from shepherd_worker.request import GuidedDecoding, ProcessorCall

_PROCESSOR: Final = "logits_processor"


@dataclass(frozen=True, slots=True)
class WireGuidedDecoding:
    """`sampling_options.guided_decoding` of a request; the frontend sets one of the first five."""

    json: dict[str, Any] | str | bool | None = None
    """A JSON Schema, or the text of one."""
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    """In llguidance's dialect of Lark."""
    structural_tag: dict[str, Any] | str | None = None
    whitespace_pattern: str | None = None
    backend: str | None = None
    """Another engine's library; of no consequence here."""


def to_guided(wire: WireGuidedDecoding | None) -> GuidedDecoding | None:
    """What the answer must be; None where anything goes.

    Raises:
        InvalidRequestError: several things at once, or a schema that is no JSON.
    """
    if wire is None:
        return None
    sources: dict[Literal["json", "regex", "choice", "grammar", "structural_tag"], Any] = {
        "json": wire.json,
        "regex": wire.regex,
        "choice": wire.choice,
        "grammar": wire.grammar,
        "structural_tag": wire.structural_tag,
    }
    asked = [kind for kind, source in sources.items() if source is not None]
    if len(asked) > 1:
        raise InvalidRequestError("guided_decoding", asked, "one of them")
    if not asked:
        return None
    kind = asked[0]
    source = sources[kind]
    if kind == "choice" and not source:
        raise InvalidRequestError("guided_decoding.choice", source, "at least one choice")
    if kind in {"json", "structural_tag"}:
        source = _canonical(f"guided_decoding.{kind}", source)
    elif kind == "choice":
        source = json.dumps(source)
    return GuidedDecoding(kind, source, wire.whitespace_pattern if kind == "json" else None)


def _canonical(field: str, source: Any) -> str:
    """One spelling for equal documents; the order of keys is kept, which a schema may mean."""
    try:
        return json.dumps(json.loads(source) if isinstance(source, str) else source)
    except ValueError as error:
        raise InvalidRequestError(field, source, f"a JSON document ({error})") from None


def to_processor_calls(annotations: Iterable[str]) -> tuple[ProcessorCall, ...]:
    """The logits processors among a request's annotations, in their order.

    Raises:
        InvalidRequestError: arguments that are no JSON object.
    """
    calls: list[ProcessorCall] = []
    for annotation in annotations:
        key, _, rest = annotation.partition(":")
        if key == _PROCESSOR:
            name, _, arguments = rest.partition(":")
            calls.append(ProcessorCall(name, _arguments(name, arguments)))
    return tuple(calls)


def _arguments(name: str, text: str) -> dict[str, Any]:
    try:
        arguments = json.loads(text or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise InvalidRequestError(f"{_PROCESSOR}:{name}", text, "a JSON object of arguments")
    return arguments
