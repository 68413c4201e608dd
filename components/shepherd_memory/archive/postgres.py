"""All tenants' archives in one schema of a PostgreSQL database.

Several processes may use the same schema.  A tenant has a number from the first
time that it is asked for; numbers stay known here, names are never part of a
statement's text.

Another server (`PostgresPool.server`) is asked for them again.  It may have given
away numbers of notices, vectors and removals that its predecessor had: they go on
far behind, so that nobody who has seen those takes new ones for old.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from shepherd_memory.archive.postgres_archive import PostgresArchive
from shepherd_memory.archive.postgres_nearness import PostgresNearness
from shepherd_memory.archive.postgres_pool import PostgresPool, text_of
from shepherd_memory.archive.postgres_speaker import Speaker
from shepherd_memory.archive.postgres_transaction import Fence, batch
from shepherd_memory.archive.postgres_writer import PostgresArchiveWriter
from shepherd_memory.archive.records import Erased
from shepherd_memory.errors import NoTenantError

_SKIPPED = 1 << 20
"""More than a server can have committed that the one in its place lacks."""
_SKIP = """UPDATE tenants SET generation = generation + %(by)s, last_notice = last_notice + %(by)s,
    last_vectors = last_vectors + %(by)s WHERE tenant = %(tenant)s"""


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
        known = self._known.get(tenant)
        if known is not None and known.speaker.server == self._pool.server:
            return known
        speaker = self._speaker_of(tenant, is_known=known is not None)
        archive = PostgresArchive(self._pool, tenant, speaker, self._nearness)
        self._known[tenant] = archive
        return archive

    def batch(self) -> AbstractContextManager[Callable[[str], PostgresArchiveWriter]]:
        """See `Archives.batch`; one transaction for all tenants."""
        return batch(
            self._pool, lambda tenant: self.of(tenant).speaker, self._fence, self._nearness
        )

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

    def _speaker_of(self, tenant: str, *, is_known: bool) -> Speaker:
        """The tenant's number in the server that is there now; `is_known` from another."""
        with self._pool.transaction() as connection:
            connection.execute(
                "INSERT INTO tenants (name) VALUES (%s) ON CONFLICT DO NOTHING", (tenant,)
            )
            row = connection.execute(
                "SELECT tenant, pg_postmaster_start_time() AS server FROM tenants WHERE name = %s",
                (tenant,),
            ).fetchone()
            assert row is not None, "a tenant's row is never removed"
            speaker = Speaker(int(row["tenant"]), row["server"])
            if is_known:
                self._pool.speak_for(connection, speaker)
                connection.execute(_SKIP, {"by": _SKIPPED, "tenant": speaker.number})
        return speaker
