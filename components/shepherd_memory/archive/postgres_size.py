"""How much room the tables take, indexes and long values included.

Knows the schema that the connections look into; needs no right on its tables.
"""

from __future__ import annotations

from shepherd_memory.archive.postgres_pool import PostgresPool
from shepherd_memory.archive.postgres_schema import STREAM_TABLES

_INDEX = ", ".join(f"'{table}'" for table in STREAM_TABLES)
_SIZES = f"""SELECT relation.relname IN ({_INDEX}) AS is_index,
    sum(pg_total_relation_size(relation.oid))::bigint AS size_bytes
    FROM pg_class AS relation JOIN pg_namespace AS schema ON schema.oid = relation.relnamespace
    WHERE schema.nspname = current_schema() AND relation.relkind = 'r'
    GROUP BY 1"""  # noqa: S608  constants only


def tables_of(pool: PostgresPool) -> dict[str, int]:
    """See `store_size.Sizes`.

    Raises:
        StoreUnavailableError: the server cannot be asked just now.
    """
    with pool.transaction() as connection:
        rows = connection.execute(_SIZES).fetchall()
    found = {row["is_index"]: row["size_bytes"] for row in rows}
    return {"archives": found.get(False, 0), "index": found.get(True, 0)}
