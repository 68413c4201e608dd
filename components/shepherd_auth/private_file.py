"""Files with secrets that nobody else may read."""

from __future__ import annotations

from pathlib import Path

from shepherd_auth.errors import CredentialFileError


def read_private(path: Path) -> bytes:
    """What a file of mode 0600 holds.

    Raises:
        CredentialFileError: it cannot be read, or others may use it.
    """
    try:
        mode, content = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise CredentialFileError(str(path), f"cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise CredentialFileError(
            str(path), f"has mode {mode & 0o777:o}, others may use it: chmod 600"
        )
    return content
