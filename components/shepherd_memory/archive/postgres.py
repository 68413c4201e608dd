"""All tenants' archives in one schema of a PostgreSQL database.

Several processes may use the same schema.  A tenant has a number from the first
time that it is asked for; numbers stay known here, names are never part of a
statement's text.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from shepherd_memory.archive.postgres_archive import PostgresArchive
from shepherd_memory.archive.postgres_nearness import PostgresNearness
from shepherd_memory.archive.postgres_pool import PostgresPool, text_of
from shepherd_memory.archive.postgres_transaction import Fence, batch
from shepherd_memory.archive.postgres_writer import PostgresArchiveWriter
from shepherd_memory.archive.records import Erased
from shepherd_memory.errors import NoTenantError


class PostgresArchives:
    """`Archives` over a pool, which whoever made it closes; any thread."""

    def __init__(
        self,
        pool: PostgresPool,
        *,
        fence: Fence | None = None,
        nearness: PostgresNearness | None = None,
    ) -> None:
        """`fence` looks at every batch, see `Lease`; `nearness` where pgvector helps."""
        self._pool = pool
        self._nearness = nearness
        self._fence = fence
        self._known: dict[str, PostgresArchive] = {}
        """A few hundred bytes per tenant."""

    def of(self, tenant: str) -> PostgresArchive:
        """See `Archives.of`."""
        if not tenant:
            raise NoTenantError
        archive = self._known.get(tenant)
        if archive is None:
            archive = PostgresArchive(self._pool, tenant, self._number_of(tenant), self._nearness)
            self._known[tenant] = archive
        return archive

    def batch(self) -> AbstractContextManager[Callable[[str], PostgresArchiveWriter]]:
        """See `Archives.batch`; one transaction for all tenants."""
        return batch(self._pool, lambda tenant: self.of(tenant).number, self._fence, self._nearness)

    def tenants(self) -> list[str]:
        """See `Archives.tenants`."""
        with self._pool.transaction() as connection:
            rows = connection.execute("SELECT name FROM tenants ORDER BY name").fetchall()
        return [text_of(row["name"]) for row in rows]

    def erase(self, tenant: str, now_unix_ns: int) -> Erased:
        """See `Archives.erase`."""
        return self.of(tenant).erase_all(now_unix_ns)

    def fill_nearness(self) -> int:
        """Put vectors again that were written without `nearness`; returns how many."""
        if self._nearness is None:
            return 0
        return sum(self.of(tenant).fill_nearness() for tenant in self.tenants())

    def close(self) -> None:
        """See `Archives.close`; nothing is open here."""

    def _number_of(self, tenant: str) -> int:
        with self._pool.transaction() as connection:
            connection.execute(
                "INSERT INTO tenants (name) VALUES (%s) ON CONFLICT DO NOTHING", (tenant,)
            )
            row = connection.execute(
                "SELECT tenant FROM tenants WHERE name = %s", (tenant,)
            ).fetchone()
        assert row is not None, "a tenant's row is never removed"
        return int(row["tenant"])
