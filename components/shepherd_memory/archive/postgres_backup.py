"""One tenant's rows as lines of JSON, all as of one moment.

For reading and for handing out; what can be restored is made by `pg_dump`.
"""

from __future__ import annotations

from pathlib import Path

from psycopg import sql

from shepherd_memory.archive.postgres_pool import PostgresPool
from shepherd_memory.archive.postgres_schema import TENANT_TABLES
from shepherd_memory.archive.postgres_speaker import Speaker


def copy_rows(pool: PostgresPool, speaker: Speaker, path: Path) -> None:
    """Write every row of a tenant as `{"table": ..., "row": ...}`; bytes as hex.

    Raises:
        FileExistsError: there is something at `path`.
    """
    with path.open("xb") as file:
        path.chmod(0o600)
        with pool.transaction(speaker, is_snapshot=True) as connection:
            for table in TENANT_TABLES:
                statement = sql.SQL(
                    "SELECT to_jsonb(each)::text AS row FROM {} AS each WHERE tenant = %s"
                ).format(sql.Identifier(table))
                with connection.cursor(f"backup_{table}") as rows:
                    for row in rows.execute(statement, (speaker.number,)):
                        file.write(f'{{"table": "{table}", "row": {row["row"]}}}\n'.encode())
