"""One transaction over the rows of several tenants, one at a time.

Who writes for a tenant holds its row in `tenants` until the commit: one writes
at a time, so that a tenant's numbers become visible in their order, however
many replicas there are.  Two that wait for each other's tenants are parted by
the server: one of them is undone and tries again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from shepherd_memory.archive.postgres_nearness import PostgresNearness
from shepherd_memory.archive.postgres_pool import Connection, PostgresPool
from shepherd_memory.archive.postgres_writer import PostgresArchiveWriter


class PostgresTransaction:
    """An open transaction and whom it speaks for; one thread."""

    def __init__(
        self,
        pool: PostgresPool,
        connection: Connection,
        nearness: PostgresNearness | None = None,
    ) -> None:
        self._pool = pool
        self._connection = connection
        self._nearness = nearness
        self._tenant: int | None = None

    def speaking_for(self, tenant: int) -> Connection:
        """The connection, which shows and takes this tenant's rows until it speaks for another."""
        if tenant != self._tenant:
            self._pool.speak_for(self._connection, tenant)
            self._tenant = tenant
        return self._connection

    def lock(self, tenant: int) -> None:
        """Wait until nobody else writes for a tenant, and keep others waiting."""
        self.speaking_for(tenant).execute(
            "SELECT 1 FROM tenants WHERE tenant = %s FOR NO KEY UPDATE", (tenant,)
        )

    def writer(self, tenant: str, number: int) -> PostgresArchiveWriter:
        """The tenant's writer in this transaction."""
        self.lock(number)
        return PostgresArchiveWriter(
            partial(self.speaking_for, number), tenant, number, self._nearness
        )


Fence = Callable[[Connection], None]
"""Looks, inside a transaction, whether it may be committed; raises where it may not."""


@contextmanager
def batch(
    pool: PostgresPool,
    number_of: Callable[[str], int],
    fence: Fence | None,
    nearness: PostgresNearness | None,
) -> Iterator[Callable[[str], PostgresArchiveWriter]]:
    """Writers for any number of tenants in one transaction, begun with the first of them."""
    writers: dict[str, PostgresArchiveWriter] = {}
    with ExitStack() as opened:
        transaction: PostgresTransaction | None = None

        def writer(tenant: str) -> PostgresArchiveWriter:
            nonlocal transaction
            if tenant not in writers:
                number = number_of(tenant)
                if transaction is None:
                    connection = opened.enter_context(pool.pipelined())
                    if fence is not None:
                        fence(connection)
                    transaction = PostgresTransaction(pool, connection, nearness)
                writers[tenant] = transaction.writer(tenant, number)
            return writers[tenant]

        yield writer
        for each in writers.values():
            each.flush()
