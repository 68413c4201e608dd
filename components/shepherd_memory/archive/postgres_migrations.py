"""Brings a schema to this program's version, and looks at who will use it.

One process migrates at a time (advisory lock), each step is one transaction: a
crash in between leaves an earlier version.
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import sql
from psycopg.rows import DictRow, dict_row

from shepherd_memory.archive.postgres_pool import PostgresOptions, available
from shepherd_memory.archive.postgres_schema import MIGRATIONS
from shepherd_memory.errors import ArchiveAccessError, SchemaVersionError

_LOCK = 0x5348_4550  # "SHEP"

_PRIVILEGES = (
    "GRANT USAGE ON SCHEMA {schema} TO {role}",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}",
    "GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {role}",
)


def prepare(
    options: PostgresOptions,
    owner: PostgresOptions | None = None,
    migrations: Sequence[str] = MIGRATIONS,
) -> None:
    """Make or migrate the schema as `owner`, where there is one, and check the role of `options`.

    Raises:
        StoreUnavailableError: the server cannot be used.
        ArchiveAccessError: a role may not do what it must, or may do what it must not.
        SchemaVersionError: a later program wrote the schema.
    """
    with available(options.name), connected(options) as connection:
        role = _checked_role(connection)
        if owner is None:
            _bring_up_to_date(connection, options, role, migrations)
            return
    with available(owner.name), connected(owner) as connection:
        _bring_up_to_date(connection, options, role, migrations)


def connected(options: PostgresOptions) -> psycopg.Connection[DictRow]:
    """A connection of one's own, whose statements take as long as they take."""
    arguments = options.connection_arguments() | {"row_factory": dict_row}
    connection: psycopg.Connection[DictRow] = psycopg.connect(options.url, **arguments)
    return connection


def _checked_role(connection: psycopg.Connection[DictRow]) -> str:
    row = connection.execute(
        """SELECT rolname, rolsuper OR rolbypassrls AS sees_all FROM pg_roles
        WHERE rolname = current_user"""
    ).fetchone()
    assert row is not None
    if row["sees_all"]:
        raise ArchiveAccessError(
            f"the role {row['rolname']!r} passes by row-level security: "
            "name one without SUPERUSER and BYPASSRLS"
        )
    return str(row["rolname"])


def _bring_up_to_date(
    connection: psycopg.Connection[DictRow],
    options: PostgresOptions,
    role: str,
    migrations: Sequence[str],
) -> None:
    schema = sql.Identifier(options.schema)
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        connection.execute(sql.SQL("SET LOCAL search_path TO {}").format(schema))
        found = _version(connection, options.schema)
        if found > len(migrations):
            raise SchemaVersionError(options.name, found, len(migrations))
        if found == len(migrations):
            return
        try:
            _migrate(connection, schema, migrations, found)
            for privilege in _PRIVILEGES:
                connection.execute(
                    sql.SQL(privilege).format(schema=schema, role=sql.Identifier(role))
                )
        except psycopg.errors.InsufficientPrivilege as error:
            raise ArchiveAccessError(
                f"the schema {options.schema!r} is of version {found}, this program needs "
                f"{len(migrations)}, and the role may not change it: {error.diag.message_primary}; "
                "name the owner's URL in --archive-owner-url-file"
            ) from error


def _version(connection: psycopg.Connection[DictRow], schema: str) -> int:
    known = connection.execute(
        "SELECT 1 FROM pg_tables WHERE schemaname = %s AND tablename = 'schema_version'", (schema,)
    ).fetchone()
    if known is None:
        return 0
    row = connection.execute("SELECT version FROM schema_version").fetchone()
    assert row is not None
    return int(row["version"])


def _migrate(
    connection: psycopg.Connection[DictRow],
    schema: sql.Identifier,
    migrations: Sequence[str],
    found: int,
) -> None:
    """All missing steps, in the open transaction."""
    connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(schema))
    for step in migrations[found:]:
        for statement in step.split(";\n"):
            connection.execute(statement)
    connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version integer NOT NULL)")
    connection.execute("DELETE FROM schema_version")
    connection.execute("INSERT INTO schema_version VALUES (%s)", (len(migrations),))
