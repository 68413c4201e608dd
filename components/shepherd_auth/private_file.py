"""Files with secrets that nobody else may read."""

from __future__ import annotations

import os
from pathlib import Path

from shepherd_auth.errors import CredentialFileError
from shepherd_events.key_files import others_may_use


def read_private(path: Path) -> bytes:
    """What a file of mode 0600, or a Secret as Kubernetes mounts it, holds.

    Raises:
        CredentialFileError: it cannot be read, or others may use it.
    """
    try:
        status, content = path.stat(), path.read_bytes()
    except OSError as error:
        raise CredentialFileError(str(path), f"cannot be read: {error.strerror}") from error
    if others_may_use(status.st_mode, status.st_uid, os.geteuid()):
        raise CredentialFileError(
            str(path), f"has mode {status.st_mode & 0o777:o}, others may use it: chmod 600"
        )
    return content
