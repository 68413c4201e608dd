"""Secrets in files that nobody else may read."""

from __future__ import annotations

import os
from pathlib import Path

from shepherd_events.errors import CredentialsError

ROOT = 0


def others_may_use(mode: int, owner: int, user: int) -> bool:
    """Whether a file's mode lets more than those use it who should.

    A file of root's may be read by its group as well: so Kubernetes hands Secrets to a pod that
    is not root, and whoever can put files of root's there needs no group. Not where `user` is
    root itself.
    """
    group_may_read = owner == ROOT and user != ROOT
    return bool(mode & (0o037 if group_may_read else 0o077))


def read_secret(path: str) -> str:
    """The text of a file that holds a secret.

    Raises:
        CredentialsError: it cannot be read, or others may use it.
    """
    file = Path(path).expanduser()
    try:
        status, text = file.stat(), file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CredentialsError(path, f"cannot be read: {error}") from error
    if others_may_use(status.st_mode, status.st_uid, os.geteuid()):
        mode = status.st_mode & 0o777
        raise CredentialsError(path, f"has mode {mode:o}, others may use it: chmod 600")
    return text
