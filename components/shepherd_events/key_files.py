"""Secrets in files that nobody else may read."""

from __future__ import annotations

from pathlib import Path

from shepherd_events.errors import CredentialsError


def read_secret(path: str) -> str:
    """The text of a file that holds a secret.

    Raises:
        CredentialsError: it cannot be read, or others may use it.
    """
    file = Path(path).expanduser()
    try:
        mode, text = file.stat().st_mode, file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CredentialsError(path, f"cannot be read: {error}") from error
    if mode & 0o077:
        raise CredentialsError(path, f"has mode {mode & 0o777:o}, others may use it: chmod 600")
    return text
