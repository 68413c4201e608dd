"""Version 2 of the shared tables: the big ones in partitions, by a hash of the tenant.

A tenant's rows lie in one partition of each table, whose indexes are an eighth
of what they were: less to vacuum at once, and every statement names the tenant,
so that it looks at one.  Rows are reached through the table alone, whose policy
shows a tenant its own; the partitions have policies of nobody, so that whoever
names one sees nothing.
"""

from __future__ import annotations

NUM_PARTITIONS = 8

_COLUMNS = {
    "turns": """tenant bigint NOT NULL,
    archive_id bytea NOT NULL,
    row bigint NOT NULL DEFAULT nextval('turns_row'),
    session bytea NOT NULL,
    ordinal bigint NOT NULL,
    digest bytea NOT NULL,
    messages bytea NOT NULL,
    request_id bytea NOT NULL,
    started_unix_ns bigint NOT NULL,
    archived boolean NOT NULL DEFAULT false,
    archived_unix_ns bigint NOT NULL DEFAULT 0,
    used_unix_ns bigint NOT NULL DEFAULT 0,
    worker_id bytea NOT NULL,
    dp_rank bigint NOT NULL,
    epoch bigint NOT NULL,
    seq bigint NOT NULL,
    placed_unix_ns bigint NOT NULL,
    block_hashes bytea NOT NULL,
    doc bigint,
    num_terms bigint NOT NULL DEFAULT 0""",
    "postings": """tenant bigint NOT NULL,
    term bytea NOT NULL,
    doc bigint NOT NULL,
    occurrences integer NOT NULL""",
    "vectors": """tenant bigint NOT NULL,
    doc bigint NOT NULL,
    number bigint NOT NULL,
    model bytea NOT NULL,
    vectors bytea NOT NULL""",
}
"""In the order of version 1, so that its rows are taken over as they are."""

_INDEXES = """ALTER TABLE turns ADD PRIMARY KEY (tenant, archive_id);
CREATE INDEX turns_by_session ON turns (tenant, session, ordinal);
CREATE INDEX turns_by_age ON turns (tenant, session, started_unix_ns, ordinal, archive_id);
CREATE INDEX live_turns ON turns (tenant, row) WHERE NOT archived;
CREATE UNIQUE INDEX documents ON turns (tenant, doc) WHERE doc IS NOT NULL;
ALTER TABLE postings ADD PRIMARY KEY (tenant, term, doc) INCLUDE (occurrences);
CREATE INDEX postings_by_doc ON postings (tenant, doc);
ALTER TABLE vectors ADD PRIMARY KEY (tenant, doc);
CREATE UNIQUE INDEX vectors_by_number ON vectors (tenant, number)"""


def _moved(table: str) -> list[str]:
    """A table's rows into partitions; its owner sees them all while no policy is forced."""
    return [
        f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY",
        f"ALTER TABLE {table} RENAME TO undivided",
        f"CREATE TABLE {table} ({_COLUMNS[table]}) PARTITION BY HASH (tenant)",
        *(statement for part in range(NUM_PARTITIONS) for statement in _partition(table, part)),
        f"INSERT INTO {table} SELECT * FROM undivided",  # noqa: S608  constants only
        "DROP TABLE undivided",
        *_closed(table),
        f"""CREATE POLICY own ON {table} USING (tenant =
        (SELECT nullif(current_setting('shepherd.tenant', true), '')::bigint))""",
    ]


def _partition(table: str, part: int) -> list[str]:
    name = f"{table}_{part}"
    values = f"WITH (MODULUS {NUM_PARTITIONS}, REMAINDER {part})"
    return [
        f"CREATE TABLE {name} PARTITION OF {table} FOR VALUES {values}",
        *_closed(name),
    ]


def _closed(table: str) -> list[str]:
    return [
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
    ]


PARTITIONED = ";\n".join(
    [
        "CREATE SEQUENCE turns_row",
        "SELECT setval('turns_row', (SELECT last_value FROM turns_row_seq))",
        *(statement for table in _COLUMNS for statement in _moved(table)),
        _INDEXES,
    ]
)
