"""Which processes are still there of what was started for one directory, as /proc tells it."""

from __future__ import annotations

import os
from pathlib import Path


def left_of(directory: Path) -> list[str]:
    """Command lines of the living processes whose environment or arguments name the directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            told = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if str(directory).encode() in told and command:  # a zombie has no command line
            found.append(command.replace(b"\0", b" ").decode())
    return found
