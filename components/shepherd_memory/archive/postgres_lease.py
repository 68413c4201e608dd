"""Which replica follows the streams: the one that holds the lease.

    free or run out   acquire   ours, under the next token
    ours              renew     ours for another `ttl_s`
    another's         renew     lost: the token is theirs

Time is the server's.  Every batch of the holder looks at the token within its
transaction and keeps it from changing until the commit (`FOR KEY SHARE` against
a column of a unique key), so that whoever was paused beyond its time commits
nothing once another has taken over; renewing is no such change.

A lease is good for the server that gave it alone (`PostgresPool.server`): one that was
started anew or replaced may lack what was committed last, and whoever follows the
streams then begins again from what is there.

Source: https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html (fencing)
"""

from __future__ import annotations

from datetime import datetime

from shepherd_memory.archive.postgres_pool import Connection, PostgresPool
from shepherd_memory.archive.postgres_speaker import REPLACED
from shepherd_memory.errors import LeaseLostError

_ACQUIRE = """INSERT INTO leases (name, token, holder, expires)
    VALUES ('streams', 1, %(holder)s, clock_timestamp() + %(ttl)s * interval '1 second')
    ON CONFLICT (name) DO UPDATE SET token = leases.token + 1, holder = excluded.holder,
        expires = excluded.expires
    WHERE leases.expires <= clock_timestamp()
    RETURNING token, pg_postmaster_start_time() AS server"""
_RENEW = """UPDATE leases SET expires = clock_timestamp() + %(ttl)s * interval '1 second'
    WHERE name = 'streams' AND token = %(token)s AND pg_postmaster_start_time() = %(server)s
    RETURNING token"""
_FENCE = """SELECT pg_postmaster_start_time() AS server FROM leases
    WHERE name = 'streams' AND token = %s FOR KEY SHARE"""
_RELEASE = """UPDATE leases SET expires = clock_timestamp()
    WHERE name = 'streams' AND token = %(token)s AND holder = %(holder)s"""


class PostgresLease:
    """One replica's view of the lease; blocks."""

    def __init__(self, pool: PostgresPool, *, holder: str, ttl_s: float) -> None:
        """`holder` says in the table who it is: nobody else's name."""
        self._pool = pool
        self._holder = holder
        self._token = 0
        self._server: datetime | None = None
        """Which gave it."""
        self.ttl_s = ttl_s

    def acquire(self) -> bool:
        """Take the lease if nobody holds it; says whether it is ours.

        Raises:
            StoreUnavailableError: as of every method: the server cannot be used just now.
        """
        with self._pool.transaction() as connection:
            values = {"holder": self._holder, "ttl": self.ttl_s}
            row = connection.execute(_ACQUIRE, values).fetchone()
        if row is not None:
            self._token, self._server = int(row["token"]), row["server"]
        return row is not None

    def renew(self) -> bool:
        """Keep the lease; False where it is another's by now, or another server's."""
        with self._pool.transaction() as connection:
            values = {"token": self._token, "ttl": self.ttl_s, "server": self._server}
            return connection.execute(_RENEW, values).fetchone() is not None

    def release(self) -> None:
        """Let the next replica take over at once."""
        with self._pool.transaction() as connection:
            connection.execute(_RELEASE, {"token": self._token, "holder": self._holder})

    def fence(self, connection: Connection) -> None:
        """Keep the lease ours until a transaction ends.

        Raises:
            LeaseLostError: it is another's, or another server's.
        """
        row = connection.execute(_FENCE, (self._token,)).fetchone()
        if row is None:
            raise LeaseLostError(self._pool.name, "another replica follows the streams")
        if row["server"] != self._server:
            raise LeaseLostError(self._pool.name, REPLACED)
