"""All tenants' SQLite files in one directory.

A file's name is a hash of the tenant's id, so that no id is ever a path; the
id itself stands in the file.  The directory is the owner's alone (0700).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from threading import Lock

from shepherd_memory.archive.availability import available
from shepherd_memory.archive.sqlite import SqliteArchive, tenant_of


class SqliteArchives:
    """`Archives` in a directory, which is made when missing."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        self._directory = directory
        self._open: dict[str, SqliteArchive] = {}
        self._lock = Lock()

    def of(self, tenant: str) -> SqliteArchive:
        """See `Archives.of`."""
        with self._lock:
            archive = self._open.get(tenant)
            if archive is None:
                name = hashlib.sha256(tenant.encode("utf-8", "surrogatepass")).hexdigest()
                path = self._directory / f"{name}.db"
                with available(path):
                    archive = SqliteArchive(path, tenant)
                self._open[tenant] = archive
            return archive

    def tenants(self) -> Iterable[str]:
        """See `Archives.tenants`."""
        found = map(tenant_of, sorted(self._directory.glob("*.db")))
        return [tenant for tenant in found if tenant is not None]

    def close(self) -> None:
        """See `Archives.close`."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()
