"""What a file says now: read again whenever it has changed.

Keys are rotated while services run.  Each look costs one `stat`; a file that
became unusable leaves what was known before in force and is told in the log,
once per change.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from shepherd_auth.errors import CredentialFileError

log = logging.getLogger(__name__)

T = TypeVar("T")


class Reloaded(Protocol):
    """Who is told that a file had changed."""

    def __call__(self, *, success: bool) -> None:
        """It was read again, and can be used or cannot."""
        ...


def nobody_told(*, success: bool) -> None:
    """For those who do not count."""
    del success


class WatchedFile(Generic[T]):
    """The parsed content of a small local file; for one thread."""

    def __init__(
        self, path: Path, parse: Callable[[Path], T], on_reload: Reloaded = nobody_told
    ) -> None:
        """Read it for the first time.

        Raises:
            CredentialFileError: it cannot be used.
        """
        self._path = path
        self._parse = parse
        self._on_reload = on_reload
        self._seen = self._stamp()
        self._content = parse(path)

    def current(self) -> T:
        """What the file says, or said when it could last be used."""
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._content = self._parse(self._path)
                log.info("%s was read again", self._path)
                self._on_reload(success=True)
            except CredentialFileError:
                log.exception(
                    "%s has changed and cannot be used: what it said before holds", self._path
                )
                self._on_reload(success=False)
        return self._content

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return (found.st_ino, found.st_mtime_ns, found.st_size)
