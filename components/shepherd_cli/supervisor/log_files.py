"""Each process's lines in a file of its own, begun anew when it is full; one thread only."""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path


class LogFiles:
    """`DIRECTORY/NAME.log`, and the `NAME.log.1` to `.KEEP` that were full before it."""

    def __init__(self, directory: Path, *, max_bytes: int, keep: int) -> None:
        """Make the directory where it is missing; `max_bytes` 0 begins no file anew.

        Raises:
            OSError: it cannot be made.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._max_bytes = max_bytes
        self._keep = keep
        self._files: dict[str, _File] = {}

    @property
    def num_failures(self) -> int:
        """Lines that could not be written, as on a full disk."""
        return sum(file.num_failures for file in self._files.values())

    def write(self, process: str, line: str) -> None:
        """Append a line; one that cannot be written is counted."""
        file = self._files.get(process)
        if file is None:
            path = self._directory / f"{process}.log"
            file = self._files[process] = _File(path, self._max_bytes, self._keep)
        file.emit(logging.makeLogRecord({"msg": line}))

    def close(self) -> None:
        """Close every file."""
        for file in self._files.values():
            file.close()


class _File(RotatingFileHandler):
    def __init__(self, path: Path, max_bytes: int, keep: int) -> None:
        super().__init__(path, maxBytes=max_bytes, backupCount=keep, encoding="utf-8", delay=True)
        self.num_failures = 0

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - logging's
        """Called where writing raised."""
        self.num_failures += 1
