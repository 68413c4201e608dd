"""Lets other users reach what a test keeps among its own files."""

from __future__ import annotations

import stat
from itertools import takewhile
from pathlib import Path


def let_others_reach(directory: Path) -> None:
    """Open a directory, and those above it up to the first that others may enter already."""
    for each in takewhile(_is_closed, (directory, *directory.parents)):
        each.chmod(0o755)


def _is_closed(directory: Path) -> bool:
    return not directory.stat().st_mode & stat.S_IXOTH
