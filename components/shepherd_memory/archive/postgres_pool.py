"""Connections to one schema of a PostgreSQL database, and what a transaction begins with.

A transaction says first whose it is: `shepherd.tenant` holds for it alone, so
that a connection that goes back to the pool knows nobody.  Strings travel as
the bytes of their UTF-8.  Statements are planned anew each time, for the tenant
that asks, and nothing of a session is kept: a pooler may stand in between.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.adapt import Dumper
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Format
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

from shepherd_memory.archive.outage import Outage
from shepherd_memory.archive.postgres_arrays import register
from shepherd_memory.archive.postgres_connection import (
    PatientConnection,
    SilentServerError,
    first_line_of,
)
from shepherd_memory.archive.postgres_speaker import REPLACED, Speaker
from shepherd_memory.errors import StoreUnavailableError

log = logging.getLogger(__name__)

Connection = PatientConnection

_PASSING = (
    *("08", "25", "28", "3D", "3F", "40", "53", "55", "57", "58"),
    *("42501", "42P01", "42703", "42704", "42883"),
)
"""Classes of SQLSTATE that go away by themselves or by the operator's hand, whatever is written:
the connection, a read-only server, deadlocks, lacking resources, locks, a shutdown or time-out,
the system; a role, database, schema, table, column, type, function or privilege that is not there.

Source: https://www.postgresql.org/docs/16/errcodes-appendix.html
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresOptions:
    """Where the archive is and how long anything there may take."""

    url: str
    """As libpq takes it, TLS included; without a password."""
    password: str = ""
    schema: str = "shepherd"
    max_connections: int = 8
    connect_timeout_s: float = 5.0
    """To get a connection, from the pool or from the server."""
    lock_timeout_s: float = 5.0
    statement_timeout_s: float = 30.0

    @property
    def silence_s(self) -> float:
        """From here on a server that says nothing is given up: its own limit has passed."""
        return self.statement_timeout_s + self.connect_timeout_s

    @property
    def name(self) -> str:
        """How messages call it: no user, no password."""
        parts = conninfo_to_dict(self.url)
        return f"postgresql {parts.get('host', 'local')}/{parts.get('dbname', '')}:{self.schema}"

    def connection_arguments(self) -> dict[str, Any]:
        """What every connection is made with."""
        arguments: dict[str, Any] = {
            "autocommit": True,
            "connect_timeout": max(2, round(self.connect_timeout_s)),
            "application_name": "shepherd_memory",
            "prepare_threshold": None,
            "row_factory": dict_row,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": round(self.connect_timeout_s * 1000),
        }
        return arguments | ({"password": self.password} if self.password else {})


class Utf8Dumper(Dumper):
    """A string as the bytes that the tables hold."""

    format = Format.BINARY
    oid = psycopg.adapters.types["bytea"].oid

    def dump(self, obj: str) -> bytes:
        """Any string, those with NUL or lone surrogates included."""
        return obj.encode("utf-8", "surrogatepass")


def text_of(raw: bytes) -> str:
    """What `Utf8Dumper` wrote."""
    return raw.decode("utf-8", "surrogatepass")


class PostgresPool:
    """Transactions on the tables of one schema; any thread.

    Every transaction asks which server it is in, since behind a pooler a connection does not
    say it, and none is committed that speaks for a number from another.

    Methods raise StoreUnavailableError where the server cannot be used just now: within
    `connect_timeout_s`, at once while somebody else waits for a server out of reach, after
    `silence_s` in the middle of a transaction.
    """

    def __init__(self, options: PostgresOptions) -> None:
        """Open no connection yet, only the pool, which fills itself."""
        self.name = options.name
        self.server: datetime | None = None
        """The latest that was heard of; None before the first."""
        self._options = options
        self._begin = _beginning(options)
        self._outage = Outage(self.name, self._tell)
        self._pool: ConnectionPool[PatientConnection] = ConnectionPool(
            options.url,
            connection_class=PatientConnection,
            kwargs=options.connection_arguments() | {"on_failure": self._outage.suspect},
            configure=self._configure,
            check=self._check,
            min_size=1,
            max_size=options.max_connections,
            timeout=options.connect_timeout_s,
            reconnect_timeout=options.connect_timeout_s,
            name="shepherd-archive",
            open=True,
        )

    @contextmanager
    def transaction(
        self, speaker: Speaker | None = None, *, is_snapshot: bool = False
    ) -> Iterator[Connection]:
        """Committed at the end of the block, undone by an exception; for a tenant's rows or none.

        Every statement of a snapshot sees the same moment.
        """
        with self._connection() as connection, connection.transaction():
            connection.spoken = []
            if is_snapshot:
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            self.speak_for(connection, speaker)
            self._check_servers(connection)
            yield connection
            self._check_servers(connection)

    @contextmanager
    def pipelined(self, speaker: Speaker | None = None) -> Iterator[Connection]:
        """As `transaction`, without waiting for a statement's result until it is fetched.

        An error of a statement whose result nobody fetches is raised by a later one, at the
        latest before the commit; `rowcount` says nothing.
        """
        with (
            self._connection() as connection,
            connection.pipeline() as pipeline,
            connection.transaction(),
        ):
            connection.spoken = []
            self.speak_for(connection, speaker)
            yield connection
            pipeline.sync()
            self._check_servers(connection)

    def speak_for(self, connection: Connection, speaker: Speaker | None) -> None:
        """Make the rest of a transaction a tenant's; where it must not be, it is not committed."""
        number = None if speaker is None else speaker.number
        connection.spoken.append((speaker, connection.execute(self._begin, (number,))))

    def close(self) -> None:
        """Let go of all connections; idempotent."""
        self._pool.close(timeout=self._options.connect_timeout_s)

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        with available(self.name), ExitStack() as opened:
            try:
                with self._outage.trying():
                    connection = opened.enter_context(self._pool.connection())
            except PoolTimeout as error:
                raise StoreUnavailableError(self.name, self._why_none()) from error
            try:
                yield connection
            except SilentServerError as error:
                self._outage.begin(str(error))
                raise

    def _check_servers(self, connection: Connection) -> None:
        """Whether those for whom a transaction spoke have their numbers from this server.

        Raises:
            StoreUnavailableError: one of them has not.
        """
        spoken, connection.spoken = connection.spoken, []
        for speaker, said in spoken:
            (row,) = said.fetchall()
            self._hear_of(row["server"])
            if speaker is not None and speaker.server not in {None, row["server"]}:
                raise StoreUnavailableError(self.name, REPLACED)

    def _hear_of(self, server: datetime) -> None:
        if self.server not in {None, server}:
            log.warning("%s: %s", self.name, REPLACED)
            self._pool.drain()
        self.server = server

    def _why_none(self) -> str:
        busy = f"all {self._options.max_connections} connections are in use"
        return self._outage.reason or busy

    def _configure(self, connection: PatientConnection) -> None:
        connection.silence_s = self._options.silence_s
        connection.adapters.register_dumper(str, Utf8Dumper)
        register(connection)

    def _check(self, connection: PatientConnection) -> None:
        """Ask a connection for a sign of life before it is used.

        Where one is dead the others mostly are as well: all are made anew.

        Raises:
            psycopg.Error: there was none.
        """
        connection.silence_s = self._options.connect_timeout_s
        try:
            ConnectionPool.check_connection(connection)
        except psycopg.Error as error:
            if isinstance(error, SilentServerError):
                self._outage.begin(str(error))
            self._pool.drain()
            raise
        connection.silence_s = self._options.silence_s

    def _tell(self, reason: str) -> None:
        if reason:
            log.error("%s is out of reach: %s", self.name, reason)
        else:
            log.info("%s can be reached again", self.name)


@contextmanager
def available(name: str) -> Iterator[None]:
    """Use a server in this block.

    Raises:
        StoreUnavailableError: it is out of reach, full, read-only, or others are in the way.
    """
    try:
        yield
    except psycopg.Error as error:
        if not _is_passing(error):
            raise
        raise StoreUnavailableError(name, first_line_of(error)) from error


def _is_passing(error: psycopg.Error) -> bool:
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return state.startswith(_PASSING)


def _beginning(options: PostgresOptions) -> bytes:
    path = sql.Identifier(options.schema).as_string(None)
    settings = {
        "search_path": path,
        "lock_timeout": f"{options.lock_timeout_s * 1000:.0f}",
        "statement_timeout": f"{options.statement_timeout_s * 1000:.0f}",
        "idle_in_transaction_session_timeout": f"{2 * options.statement_timeout_s * 1000:.0f}",
    }
    calls = [
        sql.SQL("set_config({}, {}, true)").format(sql.Literal(name), sql.Literal(value))
        for name, value in settings.items()
    ]
    own = sql.SQL("set_config('shepherd.tenant', coalesce(%s::bigint::text, ''), true)")
    server = sql.SQL("pg_postmaster_start_time() AS server")
    return sql.SQL("SELECT {}").format(sql.SQL(", ").join([*calls, own, server])).as_bytes(None)
