"""A directory of a test's that other users can reach."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def open_directory() -> Iterator[Path]:
    """An empty one, gone in the end; not among pytest's own, which every session closes to others."""
    with TemporaryDirectory(prefix="shepherd-open-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory
