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
from shepherd_memory.archive.postgres_speaker import Speaker
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
        self._speaker: Speaker | None = None

    def speaking_for(self, speaker: Speaker) -> Connection:
        """The connection, which shows and takes this tenant's rows until it speaks for another."""
        if speaker != self._speaker:
            self._pool.speak_for(self._connection, speaker)
            self._speaker = speaker
        return self._connection

    def lock(self, speaker: Speaker) -> None:
        """Wait until nobody else writes for a tenant, and keep others waiting."""
        self.speaking_for(speaker).execute(
            "SELECT 1 FROM tenants WHERE tenant = %s FOR NO KEY UPDATE", (speaker.number,)
        )

    def writer(self, tenant: str, speaker: Speaker) -> PostgresArchiveWriter:
        """The tenant's writer in this transaction."""
        self.lock(speaker)
        return PostgresArchiveWriter(
            partial(self.speaking_for, speaker), tenant, speaker.number, self._nearness
        )


Fence = Callable[[Connection], None]
"""Looks, inside a transaction, whether it may be committed; raises where it may not."""


@contextmanager
def batch(
    pool: PostgresPool,
    speaker_of: Callable[[str], Speaker],
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
                speaker = speaker_of(tenant)
                if transaction is None:
                    connection = opened.enter_context(pool.pipelined())
                    if fence is not None:
                        fence(connection)
                    transaction = PostgresTransaction(pool, connection, nearness)
                writers[tenant] = transaction.writer(tenant, speaker)
            return writers[tenant]

        yield writer
        for each in writers.values():
            each.flush()
