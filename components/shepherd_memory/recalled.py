"""What memory itself put into a conversation, so that it is never archived again.

Three things of ours stand in prompts: NOTICEs, which tell of archived turns;
context that is injected for callers without tools; and the results of the tools
that read memory.  What is recalled is quoted between two markers by whoever
hands it out (`quoted`), and taken out again before a turn is looked at
(`without_recalled`).  A client may render our answers as it likes and lose the
markers: the results of a call to one of our reading tools are ours all the same
(`answers_memory`).

Text between the markers is data: it can neither end the quotation nor begin
another.  Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

BEGIN = "<recalled_memory>"
END = "</recalled_memory>"

READING_TOOLS = frozenset({"search_memory", "get_fact", "list_facts"})
"""Tools whose results are what memory holds already."""

_NOTICE_LINE = re.compile(
    r'^NOTICE: (?:Conversation regarding "[^"\n]*" has been moved to long-term memory\. '
    r"Use search_memory to recall it\.|[^\n]* \[notice [0-9a-f]{8}\])[ \t]*(?:\n|\Z)",
    re.MULTILINE,
)
"""The default wording, or any other that `NoticeTemplate` makes."""
_QUOTATION = re.compile(rf"\s*{BEGIN}.*?(?:{END}\s*|\Z)", re.DOTALL)
_TAG = re.compile(r"<(?=/?recalled_memory>)")
_CALLED = re.compile(
    r"""["']name["']\s*:\s*["']([\w.-]+)["']\s*,\s*["'](?:arguments|parameters)["']"""
    r"|<function=([\w.-]+)>"
    r"|to=functions\.([\w.-]+)"
    r"|tool▁sep[｜|]>([\w.-]+)"  # noqa: RUF001  DeepSeek's own bar
    r"|\[TOOL_CALLS\]([\w.-]+)(?:\[|\{)"
)
"""The names of calls as chat templates spell them, in the order of the calls."""


def quoted(text: str) -> str:
    """Recalled text as it may be shown to a model, on lines of its own."""
    harmless = _TAG.sub("&lt;", text)
    return f"{BEGIN}\n{harmless}\n{END}"


def without_recalled(text: str) -> str:
    """The text without our NOTICEs and quotations; one that was cut off ends with the text.

    Where a quotation stood, no white space is left at the text's ends, and one line break
    inside it.
    """
    told = _NOTICE_LINE.sub("", text)
    return _QUOTATION.sub("\n", told).strip() if BEGIN in told else told


def answers_memory(calls: str, results: int) -> tuple[bool, ...]:
    """Which of the tool results that follow an assistant's message are memory's own.

    `calls` is the message's text.  Results belong to the calls in their order; where their
    numbers differ, they are ours only if every call was.
    """
    names = called_tools(calls)
    ours = [name in READING_TOOLS for name in names]
    if len(ours) == results:
        return tuple(ours)
    return (bool(ours) and all(ours),) * results


def called_tools(text: str) -> Sequence[str]:
    """The names of the tools that an assistant's message calls, in their order."""
    return [next(filter(None, found.groups())) for found in _CALLED.finditer(text)]
