"""What a line of a process looks like in the one log of all; pure.

text   gateway   | 2026-11-21 12:00:00 INFO shepherd_gateway: serving http://127.0.0.1:8080
json   {"process": "gateway", "time": ..., "level": "INFO", ...}

A line that is a JSON object keeps its fields; any other becomes the message of one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

OWN: Final = "shepherd"
"""The name under which the supervisor itself speaks."""
_COLOURS: Final = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
_OWN_COLOUR: Final = 1

Show = Callable[[str, str], str]
"""(process, line) -> the line of the log, without its end."""


def text_lines(processes: Sequence[str], *, colour: bool) -> Show:
    """Each line after the name of its process."""
    width = max(len(name) for name in (OWN, *processes))
    codes = {name: _COLOURS[n % len(_COLOURS)] for n, name in enumerate(processes)}

    def show(process: str, line: str) -> str:
        head = f"{process:<{width}} |"
        if colour:
            head = f"\x1b[{codes.get(process, _OWN_COLOUR)}m{head}\x1b[0m"
        return f"{head} {line}" if line else head

    return show


def json_lines(now_unix_s: Callable[[], float]) -> Show:
    """Each line as one JSON object that names its process."""

    def show(process: str, line: str) -> str:
        said = _object(line)
        if said is None:
            time = datetime.fromtimestamp(now_unix_s(), UTC).isoformat(timespec="microseconds")
            stamp = time.replace("+00:00", "Z")
            said = {"time": stamp, "level": "INFO", "target": process, "message": line}
        return json.dumps({"process": process} | said | {"process": process}, ensure_ascii=False)

    return show


def _object(line: str) -> dict[str, object] | None:
    if not line.startswith("{"):
        return None
    try:
        parsed = json.loads(line)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None
