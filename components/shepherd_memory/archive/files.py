"""All tenants' SQLite files in one directory.

A file's name is a hash of the tenant's id, so that no id is ever a path; the
id itself stands in the file.  The directory is the owner's alone (0700).  Only
the stores that were used last keep their files open; whoever still holds
another opens its file again by using it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Lock

from shepherd_memory.archive.batches import tenant_by_tenant
from shepherd_memory.archive.protocol import ArchiveWriter
from shepherd_memory.archive.records import Erased
from shepherd_memory.archive.sqlite import SqliteArchive, tenant_of
from shepherd_memory.errors import NoTenantError

MAX_OPEN = 128
"""Tenants whose files stay open; each has up to five connections."""


class SqliteArchives:
    """`Archives` in a directory, which is made when missing."""

    def __init__(self, directory: Path, *, max_open: int = MAX_OPEN) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        self._directory = directory
        self._max_open = max_open
        self._open: OrderedDict[str, SqliteArchive] = OrderedDict()
        self._lock = Lock()

    def of(self, tenant: str) -> SqliteArchive:
        """See `Archives.of`."""
        if not tenant:
            raise NoTenantError
        with self._lock:
            archive = self._open.get(tenant)
            if archive is None:
                archive = self._open[tenant] = SqliteArchive(self._path_of(tenant), tenant)
            self._open.move_to_end(tenant)
            resting = (
                self._open.popitem(last=False)[1] if len(self._open) > self._max_open else None
            )
        if resting is not None:
            resting.close()
        return archive

    def batch(self) -> AbstractContextManager[Callable[[str], ArchiveWriter]]:
        """See `Archives.batch`."""
        return tenant_by_tenant(self.of)

    def tenants(self) -> list[str]:
        """See `Archives.tenants`."""
        found = map(tenant_of, sorted(self._directory.glob("*.db")))
        return [tenant for tenant in found if tenant is not None]

    def erase(self, tenant: str, now_unix_ns: int) -> Erased:
        """See `Archives.erase`."""
        return self.of(tenant).erase_all(now_unix_ns)

    def close(self) -> None:
        """See `Archives.close`."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def _path_of(self, tenant: str) -> Path:
        name = hashlib.sha256(tenant.encode("utf-8", "surrogatepass")).hexdigest()
        return self._directory / f"{name}.db"
