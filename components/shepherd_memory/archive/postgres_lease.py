"""Which replica follows the streams: the one that holds the lease.

    free or run out   acquire   ours, under the next token
    ours              renew     ours for another `ttl_s`
    another's         renew     lost: the token is theirs

Time is the server's.  Every batch of the holder looks at the token within its
transaction and keeps it from changing until the commit (`FOR KEY SHARE` against
a column of a unique key), so that whoever was paused beyond its time commits
nothing once another has taken over; renewing is no such change.

Source: https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html (fencing)
"""

from __future__ import annotations

from shepherd_memory.archive.postgres_pool import Connection, PostgresPool
from shepherd_memory.errors import LeaseLostError

_ACQUIRE = """INSERT INTO leases (name, token, holder, expires)
    VALUES ('streams', 1, %(holder)s, clock_timestamp() + %(ttl)s * interval '1 second')
    ON CONFLICT (name) DO UPDATE SET token = leases.token + 1, holder = excluded.holder,
        expires = excluded.expires
    WHERE leases.expires <= clock_timestamp() RETURNING token"""
_RENEW = """UPDATE leases SET expires = clock_timestamp() + %(ttl)s * interval '1 second'
    WHERE name = 'streams' AND token = %(token)s RETURNING token"""
_RELEASE = """UPDATE leases SET expires = clock_timestamp()
    WHERE name = 'streams' AND token = %(token)s"""


class PostgresLease:
    """One replica's view of the lease; blocks."""

    def __init__(self, pool: PostgresPool, *, holder: str, ttl_s: float) -> None:
        """`holder` is for people: it says in the table who it is."""
        self._pool = pool
        self._holder = holder
        self._token = 0
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
            self._token = int(row["token"])
        return row is not None

    def renew(self) -> bool:
        """Keep the lease; False where it is another's by now."""
        with self._pool.transaction() as connection:
            values = {"token": self._token, "ttl": self.ttl_s}
            return connection.execute(_RENEW, values).fetchone() is not None

    def release(self) -> None:
        """Let the next replica take over at once."""
        with self._pool.transaction() as connection:
            connection.execute(_RELEASE, {"token": self._token})

    def fence(self, connection: Connection) -> None:
        """Keep the lease ours until a transaction ends.

        Raises:
            LeaseLostError: it is another's.
        """
        found = connection.execute(
            "SELECT 1 FROM leases WHERE name = 'streams' AND token = %s FOR KEY SHARE",
            (self._token,),
        )
        if found.fetchone() is None:
            raise LeaseLostError(self._pool.name)
