"""What SQLite says when a file cannot be used just now, as our own error."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shepherd_memory.errors import StoreUnavailableError


@contextmanager
def available(path: Path) -> Iterator[None]:
    """Use a file in this block.

    Raises:
        StoreUnavailableError: the disk is full, fails or is read-only, or the file is locked.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StoreUnavailableError(str(path), str(error)) from error
