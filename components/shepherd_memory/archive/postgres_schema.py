"""The tables that all tenants share in PostgreSQL, version by version.

Every string is kept as the bytes of its UTF-8, so that every text can be kept
and sorts alike whatever the database's collation.  Rows belong to a tenant by
its number; the policies show them to transactions that say that number in
`shepherd.tenant`, and to nobody else, the owner included.  Number 0 is nobody's:
it opens what is known of the streams.

Version 2 divides the big tables among partitions, see `postgres_partitions.py`.
"""

from __future__ import annotations

from shepherd_memory.archive.postgres_partitions import PARTITIONED

_TENANTS = """CREATE TABLE tenants (
    tenant bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name bytea NOT NULL UNIQUE CHECK (name <> ''),
    generation bigint NOT NULL DEFAULT 0,
    last_doc bigint NOT NULL DEFAULT 0,
    last_notice bigint NOT NULL DEFAULT 0,
    last_vectors bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
CREATE TABLE leases (
    name text PRIMARY KEY,
    token bigint NOT NULL,
    holder bytea NOT NULL,
    expires timestamptz NOT NULL,
    UNIQUE (name, token)
) WITH (fillfactor = 50)"""

_TURNS = """CREATE TABLE turns (
    tenant bigint NOT NULL,
    archive_id bytea NOT NULL,
    row bigint GENERATED ALWAYS AS IDENTITY,
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
    num_terms bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, archive_id)
);
CREATE INDEX turns_by_session ON turns (tenant, session, ordinal);
CREATE INDEX turns_by_age ON turns (tenant, session, started_unix_ns, ordinal, archive_id);
CREATE INDEX live_turns ON turns (tenant, row) WHERE NOT archived;
CREATE UNIQUE INDEX documents ON turns (tenant, doc) WHERE doc IS NOT NULL;
CREATE TABLE postings (
    tenant bigint NOT NULL,
    term bytea NOT NULL,
    doc bigint NOT NULL,
    occurrences integer NOT NULL,
    PRIMARY KEY (tenant, term, doc) INCLUDE (occurrences)
);
CREATE INDEX postings_by_doc ON postings (tenant, doc);
CREATE TABLE vectors (
    tenant bigint NOT NULL,
    doc bigint NOT NULL,
    number bigint NOT NULL,
    model bytea NOT NULL,
    vectors bytea NOT NULL,
    PRIMARY KEY (tenant, doc)
);
CREATE UNIQUE INDEX vectors_by_number ON vectors (tenant, number)"""

_RECORDS = """CREATE TABLE notices (
    tenant bigint NOT NULL,
    position bigint NOT NULL,
    notice_id bytea NOT NULL,
    session bytea NOT NULL,
    acknowledged boolean NOT NULL DEFAULT false,
    turns bigint[] NOT NULL,
    archive_ids bytea[] NOT NULL,
    topic bytea NOT NULL,
    text bytea NOT NULL,
    created_unix_ns bigint NOT NULL,
    PRIMARY KEY (tenant, position),
    UNIQUE (tenant, notice_id)
);
CREATE INDEX notices_by_session ON notices (tenant, session, position);
CREATE TABLE facts (
    tenant bigint NOT NULL,
    row bigint GENERATED ALWAYS AS IDENTITY,
    key bytea NOT NULL,
    folded bytea NOT NULL,
    value bytea NOT NULL,
    set_unix_ns bigint NOT NULL,
    ended_unix_ns bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, row)
);
CREATE UNIQUE INDEX facts_now ON facts (tenant, key) WHERE ended_unix_ns = 0;
CREATE INDEX facts_by_fold ON facts (tenant, folded) WHERE ended_unix_ns = 0;
CREATE INDEX facts_by_key ON facts (tenant, key, row);
CREATE TABLE dead_letters (
    tenant bigint NOT NULL,
    name bytea NOT NULL,
    session bytea NOT NULL,
    reason bytea NOT NULL,
    payload bytea NOT NULL,
    created_unix_ns bigint NOT NULL,
    attempts bigint NOT NULL,
    PRIMARY KEY (tenant, name)
);
CREATE TABLE positions (
    tenant bigint NOT NULL,
    name bytea NOT NULL,
    epoch bigint NOT NULL,
    seq bigint NOT NULL,
    PRIMARY KEY (tenant, name)
);
CREATE TABLE tombstones (
    tenant bigint NOT NULL,
    scope bytea NOT NULL CHECK (scope IN ('tenant', 'session', 'turn')),
    name bytea NOT NULL,
    erased_unix_ns bigint NOT NULL,
    PRIMARY KEY (tenant, scope, name)
)"""

_STREAMS = """CREATE TABLE streams (
    worker_id bytea NOT NULL,
    dp_rank bigint NOT NULL,
    epoch bigint NOT NULL,
    seq bigint NOT NULL,
    PRIMARY KEY (worker_id, dp_rank)
);
CREATE TABLE blocks (
    hash bigint PRIMARY KEY,
    parent bigint NOT NULL,
    start bigint NOT NULL,
    tokens bytea NOT NULL
);
CREATE TABLE holders (
    hash bigint NOT NULL,
    worker_id bytea NOT NULL,
    dp_rank bigint NOT NULL,
    tier bigint NOT NULL,
    PRIMARY KEY (hash, worker_id, dp_rank, tier)
);
CREATE TABLE ended_turns (
    tenant bytea NOT NULL,
    archive_id bytea NOT NULL,
    PRIMARY KEY (tenant, archive_id)
)"""

TENANT_TABLES = (
    *("turns", "postings", "vectors", "notices", "facts"),
    *("dead_letters", "positions", "tombstones"),
)
"""Those with a column `tenant`, its number."""
STREAM_TABLES = ("streams", "blocks", "holders", "ended_turns")
"""What the consumer of the streams knows, of all tenants."""

_NUMBER = "(SELECT nullif(current_setting('shepherd.tenant', true), '')::bigint)"
"""Of the tenant that a transaction works for; null where it has not said. Looked up once a query."""


def _guarded(table: str, condition: str) -> str:
    return f"""ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON {table} USING ({condition})"""


_POLICIES = ";\n".join(
    [_guarded(table, f"tenant = {_NUMBER}") for table in TENANT_TABLES]
    + [_guarded(table, f"{_NUMBER} = 0") for table in STREAM_TABLES]
    + [
        _guarded("tenants", f"tenant = {_NUMBER}"),
        "CREATE POLICY names ON tenants FOR SELECT USING (true)",
        "CREATE POLICY newcomers ON tenants FOR INSERT WITH CHECK (true)",
    ]
)

_VERSION_1 = f"{_TENANTS};\n{_TURNS};\n{_RECORDS};\n{_STREAMS};\n{_POLICIES}"

MIGRATIONS: tuple[str, ...] = (_VERSION_1, PARTITIONED)
"""From one version to the next, each in one transaction."""
