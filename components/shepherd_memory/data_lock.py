"""One process per data directory: two would archive the same turns under each other's feet."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shepherd_memory.errors import DataDirectoryInUseError


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a data directory, made when missing; the system lets go of it when the process dies.

    Raises:
        DataDirectoryInUseError: another process holds it.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataDirectoryInUseError(directory) from None
        yield
