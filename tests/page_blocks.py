"""What a page of Markdown shows: its fenced blocks, and what a reader is to type.

A block is run unless an HTML comment in front of it says why not:

    <!-- not run: needs a GPU -->        nothing of it
    <!-- only checked: needs a GPU -->   processes of ours read their options and end

In a console block a line that begins with `$ ` is typed, the lines below it are what
comes back.  `…` stands for anything within a line, alone on a line for any lines;
`^C` as the last line interrupts the command once the lines above it have come.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

RUN_LANGUAGES = frozenset({"console", "bash", "python"})
SHOWN_LANGUAGES = frozenset({"text", "yaml", "sql", "toml", "json"})
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$", re.DOTALL | re.MULTILINE
)
_MARK = re.compile(r"<!-- (not run|only checked): ([^>]+?) -->\s*\Z")


@dataclass(frozen=True, slots=True)
class Block:
    """One fence of a page."""

    page: str
    line: int
    language: str
    text: str
    """Without the indentation of the fence."""
    mark: str
    """"not run", "only checked" or nothing."""
    reason: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True, slots=True)
class Typed:
    """One command, and what the page shows below it."""

    command: str
    shown: str


def blocks_of(path: Path, root: Path) -> list[Block]:
    """Every fence of a page, in order."""
    text = path.read_text()
    blocks = []
    for found in _FENCE.finditer(text):
        before = text[: found.start()]
        mark = _MARK.search(before)
        indent = found["indent"]
        body = "".join(line.removeprefix(indent) for line in found["text"].splitlines(True))
        blocks.append(
            Block(
                page=str(path.relative_to(root)),
                line=before.count("\n") + 1,
                language=found["language"],
                text=body,
                mark=mark[1] if mark else "",
                reason=mark[2] if mark else "",
            )
        )
    return blocks


def typed_in(block: Block) -> list[Typed]:
    """The commands of a console block.

    Raises:
        ValueError: the block begins with something that nobody types.
    """
    typed: list[Typed] = []
    lines = iter(block.text.splitlines())
    for line in lines:
        if line.startswith("$ "):
            command = line[2:]
            while not _is_whole(command):
                command += "\n" + next(lines)
            typed.append(Typed(command, ""))
        elif typed:
            typed[-1] = Typed(typed[-1].command, typed[-1].shown + line + "\n")
        elif line.strip():
            raise ValueError(f"{block}: expected a line that begins with '$ ', not {line!r}")
    return typed


def pattern_of(shown: str) -> re.Pattern[str]:
    """What the lines of a page match, `…` being anything."""
    lines = shown.removesuffix("^C\n").splitlines()
    words = [
        "(?:.*\n)*?" if line.strip() == "…" else re.escape(line.rstrip()).replace("…", ".*") + "\n"
        for line in lines
    ]
    return re.compile("".join(words))


def _is_whole(command: str) -> bool:
    if command.endswith("\\"):
        return False
    try:
        shlex.split(command, comments=True)
    except ValueError:  # a quotation that is still open
        return False
    return True
