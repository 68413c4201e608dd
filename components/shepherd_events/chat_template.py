"""A model's chat template: conversations to text, in a sandbox.

Renders as the Hugging Face tokenizers do (the same whitespace rules, functions
and tags), without their library.  Knows nothing of tokens, nor of what the
rendered markers mean; see `grammar_learning.py`.  The template is a stranger's
program: it sees only what is passed in, and can change none of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NoReturn

from jinja2 import Environment, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ChatTemplateError(ValueError):
    """A template that does not compile, or that rejects a conversation."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a template is given."""

    messages: tuple[dict[str, Any], ...]
    add_generation_prompt: bool = False
    tools: tuple[dict[str, Any], ...] = ()
    now: datetime = _EPOCH
    """What the clock shows where the template asks for it."""
    options: Mapping[str, object] = field(default_factory=dict)
    """Further variables that a caller may set, such as `enable_thinking`."""


class ChatTemplate:
    """One compiled template."""

    def __init__(self, text: str, special_tokens: dict[str, str]) -> None:
        environment = _environment()
        self._special_tokens: dict[str, object] = {**special_tokens}
        try:
            self._template = environment.from_string(text)
        except TemplateError as error:
            raise ChatTemplateError(f"the chat template does not compile: {error}") from error

    def render(self, conversation: Conversation) -> str:
        """The text that the model would be given.

        Raises:
            ChatTemplateError: the template rejects the conversation or fails on it.
        """
        try:
            return self._template.render(
                {**self._special_tokens, **conversation.options},
                messages=[dict(message) for message in conversation.messages],
                add_generation_prompt=conversation.add_generation_prompt,
                tools=list(conversation.tools) or None,
                documents=None,
                strftime_now=conversation.now.strftime,
            )
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise ChatTemplateError(f"the chat template fails: {error}") from error


class _GenerationTag(Extension):
    """`{% generation %}` surrounds what a trainer learns from; for a reader it is its body."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> Environment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    return environment


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)
