"""Tables of Markdown; knows nothing of what stands in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_SPECIAL = str.maketrans({"|": r"\|", "*": r"\*", "<": "&lt;", "\n": " "})


def text(words: str) -> str:
    """Words as they are, whatever they mean to Markdown; `code` stays code."""
    return words.translate(_SPECIAL)


def code(words: str) -> str:
    """Words in the typewriter's face; nothing for none."""
    return f"`{words.replace('|', chr(92) + '|')}`" if words else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, or nothing where there are no rows."""
    lines = [_row(each) for each in rows]
    return "\n".join([_row(head), "|" + "---|" * len(head), *lines, ""]) if lines else ""


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
