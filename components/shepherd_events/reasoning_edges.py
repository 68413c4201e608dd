"""Reasoning that a template lets the model write, and leaves out of the history.

Such a template shows no reasoning to learn from, only that it cuts an answer
behind the marker that ends it.  The one convention that is not learned: reasoning
stands between `<think>` and `</think>`.
Source: the chat templates of DeepSeek-R1 and of those after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from shepherd_events.chat_template import Conversation
from shepherd_events.template_probes import content, thought
from shepherd_events.transcript_grammar import Literal

BEGIN, END = "<think>", "</think>"
_BREAKS = ("", "\n", "\n\n")


def add_reasoning(
    edges: dict[str, dict[Literal, str]],
    renders: Iterable[Callable[[Conversation], bytes | None]],
    spelled: Callable[[str], bytes],
) -> dict[str, dict[Literal, str]]:
    """The edges, with reasoning among them where a template cuts it out of answers."""
    if not any(map(_cuts, renders)):
        return edges
    begin, end = spelled(BEGIN), spelled(END)
    changed = {source: dict(leaving) for source, leaving in edges.items()}
    for leaving in changed.values():
        for literal, role in list(leaving.items()):
            if role != "assistant" or len(literal) > 1:
                continue
            if literal[0].rstrip().endswith(begin):
                leaving[literal] = "reasoning"
            elif not literal[0].rstrip().endswith(end):
                leaving.update(
                    ((literal[0] + begin + spelled(gap),), "reasoning") for gap in _BREAKS
                )
    after = [spelled(before + END + behind) for before in ("", "\n") for behind in _BREAKS]
    return changed | {"reasoning": {(each,): "assistant" for each in after}}


def _cuts(render: Callable[[Conversation], bytes | None]) -> bool:
    """Whether what stands before the end of reasoning is left out of an earlier answer."""
    marked = render(thought(END)) or b""
    return content(1).encode() not in marked and content(2).encode() in marked
