"""The last epoch of one stream, in a file: epochs grow though the clock goes back.

Readers take a lower epoch for the past and drop what it says.  A publisher that
restarts while the clock is behind, and has neither a log nor this file, would
speak to nobody.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from shepherd_events.errors import EpochFileError


class EpochFile:
    """One file per stream; publishers of several processes may claim at once."""

    def __init__(self, path: str) -> None:
        self._path = Path(path).expanduser()

    def claim(self, at_least: int) -> tuple[int, int]:
        """The epoch claimed last, 0 if none was, and the new one, which is on disk now.

        The new one is `at_least`, or more where that would not grow.

        Raises:
            EpochFileError: the file cannot be used, or holds something else.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.with_name(self._path.name + ".lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                last = self._read()
                epoch = max(at_least, last + 1)
                self._write(epoch)
        except OSError as error:
            raise EpochFileError(str(self._path), str(error)) from error
        return last, epoch

    def _read(self) -> int:
        try:
            text = self._path.read_text("ascii", errors="replace").strip()
        except FileNotFoundError:
            return 0
        if not text.isdecimal() or not text.isascii():
            raise EpochFileError(str(self._path), f"holds {text[:40]!r}, expected a number")
        return int(text)

    def _write(self, epoch: int) -> None:
        fresh = self._path.with_name(self._path.name + ".new")
        with fresh.open("w") as file:
            file.write(f"{epoch}\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
