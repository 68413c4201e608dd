"""Taking turns out of the shared tables, with everything that repeats their words.

Gone at once for every reader; from the disk with the next VACUUM, from the
write-ahead log and backups when these are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

from shepherd_memory.archive.postgres_pool import Connection, text_of
from shepherd_memory.archive.postgres_schema import TENANT_TABLES
from shepherd_memory.archive.records import Erased, Quota
from shepherd_memory.archive.sqlite_erasure import session_name

_BURY = """INSERT INTO tombstones SELECT %s, %s, name, %s FROM unnest(%s::bytea[]) AS dead (name)
    ON CONFLICT (tenant, scope, name) DO UPDATE SET erased_unix_ns = excluded.erased_unix_ns"""

_BEYOND = """SELECT archive_id FROM (
        SELECT archive_id, greatest(archived_unix_ns, used_unix_ns) AS heard,
            row_number() OVER latest AS turns,
            sum(octet_length(messages)) OVER latest AS bytes
        FROM turns WHERE tenant = %(tenant)s AND archived AND session <> ''
        WINDOW latest AS (ORDER BY greatest(archived_unix_ns, used_unix_ns) DESC, row DESC)) AS kept
    WHERE turns > %(turns)s OR bytes > %(bytes)s OR heard < %(since)s"""


def remove_turns(connection: Connection, tenant: int, archive_ids: Sequence[str]) -> Erased:
    """Remove turns from every table; in the tenant's transaction."""
    removed = connection.execute(
        """DELETE FROM turns WHERE tenant = %s AND archive_id = ANY(%s::bytea[]) RETURNING doc""",
        (tenant, list(archive_ids)),
    ).fetchall()
    docs = [row["doc"] for row in removed if row["doc"] is not None]
    connection.execute(
        "DELETE FROM postings WHERE tenant = %s AND doc = ANY(%s::bigint[])", (tenant, docs)
    )
    by_doc = "DELETE FROM vectors WHERE tenant = %s AND doc = ANY(%s::bigint[])"
    vectors = deleted(connection, by_doc, tenant, docs)
    telling = "DELETE FROM notices WHERE tenant = %s AND archive_ids && %s::bytea[]"
    notices = deleted(connection, telling, tenant, list(archive_ids))
    _tell_readers(connection, tenant)
    return Erased(turns=len(removed), vectors=vectors, notices=notices)


def bury(connection: Connection, tenant: int, archive_ids: Sequence[str], now_unix_ns: int) -> None:
    """Leave a tombstone for each of the turns."""
    connection.execute(_BURY, (tenant, "turn", now_unix_ns, list(set(archive_ids))))


def erase_session(connection: Connection, tenant: int, session: str, now_unix_ns: int) -> Erased:
    """Everything of a conversation; in the tenant's transaction."""
    rows = connection.execute(
        "SELECT archive_id FROM turns WHERE tenant = %s AND session = %s", (tenant, session)
    ).fetchall()
    doomed = [text_of(row["archive_id"]) for row in rows]
    bury(connection, tenant, doomed, now_unix_ns)
    connection.execute(_BURY, (tenant, "session", now_unix_ns, [session_name(session)]))
    erased = remove_turns(connection, tenant, doomed)
    of_session = "DELETE FROM {} WHERE tenant = %s AND session = %s"
    return erased + Erased(
        notices=deleted(connection, of_session.format("notices"), tenant, session),
        dead_letters=deleted(connection, of_session.format("dead_letters"), tenant, session),
    )


def erase_all(connection: Connection, tenant: int, now_unix_ns: int) -> Erased:
    """Everything of a tenant but its number and a tombstone; in its transaction."""
    gone = {
        table: deleted(connection, f"DELETE FROM {table} WHERE tenant = %s", tenant)  # noqa: S608  constants only
        for table in TENANT_TABLES
    }
    connection.execute(_BURY, (tenant, "tenant", now_unix_ns, [""]))
    _tell_readers(connection, tenant)
    return Erased(
        **{kind: gone[kind] for kind in ("turns", "vectors", "notices", "facts", "dead_letters")}
    )


def deleted(connection: Connection, statement: str, *values: object) -> int:
    """How many rows a DELETE removed."""
    counted = f"WITH gone AS ({statement} RETURNING 1) SELECT count(*) AS number FROM gone"  # noqa: S608  constants only
    row = connection.execute(counted, values).fetchone()
    assert row is not None
    return int(row["number"])


def beyond(connection: Connection, tenant: int, quota: Quota) -> list[str]:
    """The turns that do not fit into a quota, those that were of use last kept longest."""
    values = {
        "tenant": tenant,
        "turns": _or_boundless(quota.max_turns),
        "bytes": _or_boundless(quota.max_bytes),
        "since": quota.archived_since_unix_ns or 0,
    }
    return [text_of(row["archive_id"]) for row in connection.execute(_BEYOND, values)]


def _tell_readers(connection: Connection, tenant: int) -> None:
    connection.execute(
        "UPDATE tenants SET generation = generation + 1 WHERE tenant = %s", (tenant,)
    )


def _or_boundless(limit: int | None) -> int:
    return 2**63 - 1 if limit is None else limit
