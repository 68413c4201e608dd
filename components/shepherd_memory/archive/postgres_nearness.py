"""pgvector, where a database has it: the nearest vectors of a large tenant without reading them all.

One model's vectors stand beside themselves in half precision (`near`), indexed
as a graph (HNSW) in each partition.  It only proposes: whoever asks compares the
vectors themselves, which come along.  A filter on an approximate index loses
rows, so that the scan goes on until it has enough of the tenant's (iterative
scan, pgvector 0.8), and where it has not, there is no answer rather than a poor
one.  Tenants below `exact_below` vectors are compared one by one, as everywhere.

Without the extension, or the right to use it, everything works as without this
file.  The owner makes the column (`prepare_nearness`), what was written without
is filled in, then the owner makes the index (`index_vectors`).

Source: https://github.com/pgvector/pgvector#iterative-index-scans
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psycopg
from psycopg import sql
from psycopg.rows import DictRow

from shepherd_memory.archive.postgres_arrays import Strings
from shepherd_memory.archive.postgres_migrations import connected
from shepherd_memory.archive.postgres_partitions import NUM_PARTITIONS
from shepherd_memory.archive.postgres_pool import Connection, PostgresOptions, available

log = logging.getLogger(__name__)

EXACT_BELOW = 20_000
"""Vectors of a tenant that are compared one by one faster than an index is worth."""
MAX_DIMENSIONS = 4000
"""Of a vector in half precision that pgvector indexes."""
_MIN_VERSION = (0, 8)
_MAX_SCANNED = 200_000
"""Vectors of other tenants, and of this, that a search passes by at most."""
_FARTHEST = 20
"""They say how far vectors lie apart."""
_MAX_EF = 1000
"""Candidates that a search of the graph may keep, pgvector's limit; twice what is asked for is enough."""
_NO_RIGHT = "pgvector is not used: name the owner's URL in --archive-owner-url-file"
_LOCK = 0x5348_4E45  # "SHNE"

_SIZE = """SELECT last_vectors, EXISTS (SELECT 1 FROM vectors
    WHERE tenant = %(tenant)s AND near IS NULL AND model = %(model)s) AS is_unfilled
    FROM tenants WHERE tenant = %(tenant)s"""
_SETTINGS = f"""SELECT set_config('hnsw.iterative_scan', 'strict_order', true),
    set_config('hnsw.ef_search', %(ef)s::text, true),
    set_config('hnsw.max_scan_tuples', '{_MAX_SCANNED}', true),
    set_config('enable_sort', 'off', true)"""
"""The order is the index's, whatever statistics there are yet."""


@dataclass(frozen=True, slots=True)
class PostgresNearness:
    """The index of one model's vectors; statements only, in whoever's transaction."""

    model: str
    dimensions: int
    namespace: str
    """Where the extension's types and operators are."""
    exact_below: int = EXACT_BELOW

    def put(
        self,
        connection: Connection,
        model: str,
        vectors: Sequence[bytes],
        values: dict[str, object],
    ) -> None:
        """As `PostgresArchiveWriter.put_vectors` does, and the vectors beside themselves."""
        statement = sql.SQL(
            """INSERT INTO vectors (tenant, doc, number, model, vectors, near)
            SELECT tenant, turns.doc, new.number, %(model)s, new.vectors,
                nullif(convert_from(new.half, 'UTF8'), '')::{type}
            FROM unnest(%(docs)s, %(numbers)s, %(vectors)s, %(halves)s)
                AS new (doc, number, vectors, half)
            JOIN turns ON turns.tenant = %(tenant)s AND turns.doc = new.doc
            ON CONFLICT (tenant, doc) DO UPDATE SET number = excluded.number,
                model = excluded.model, vectors = excluded.vectors, near = excluded.near"""
        ).format(type=sql.Identifier(self.namespace, "halfvec"))
        halves = [self._half(each) if model == self.model else "" for each in vectors]
        connection.execute(statement, values | {"halves": Strings(halves)})

    def candidates(
        self, connection: Connection, tenant: int, query: Sequence[float], limit: int
    ) -> list[int] | None:
        """The nearest `limit` documents, and the farthest; None where that cannot be told."""
        values = {"tenant": tenant, "model": self.model}
        size = connection.execute(_SIZE, values).fetchone()
        if size is None or size["last_vectors"] < self.exact_below or size["is_unfilled"]:
            return None
        connection.execute(_SETTINGS, {"ef": min(2 * limit, _MAX_EF)})
        near = connection.execute(self.nearest_first(limit), values | {"query": list(query)})
        far = connection.execute(
            self.nearest_first(_FARTHEST), values | {"query": [-each for each in query]}
        )
        found = [row["doc"] for row in near]
        return found + [row["doc"] for row in far] if len(found) == limit else None

    def index_name(self, part: int) -> str:
        """Another for another model."""
        named = hashlib.sha256(f"{self.model} {self.dimensions}".encode()).hexdigest()[:16]
        return f"near_{named}_{part}"

    def make_index(self, connection: psycopg.Connection[DictRow]) -> None:
        """Index every partition, and drop the indexes of other models; as the owner."""
        mine = [self.index_name(part) for part in range(NUM_PARTITIONS)]
        rows = connection.execute(
            """SELECT indexname FROM pg_indexes WHERE schemaname = current_schema()
            AND indexname LIKE 'near\\_%'"""
        )
        there = {row["indexname"] for row in rows}
        if there == set(mine):
            return
        for name in there.difference(mine):
            connection.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(name)))
        for part, name in enumerate(mine):
            connection.execute(
                sql.SQL(
                    """CREATE INDEX IF NOT EXISTS {name} ON {table}
                    USING hnsw ((near::{type}({dimensions})) {operators})
                    WHERE model = {model} AND near IS NOT NULL"""
                ).format(
                    name=sql.Identifier(name),
                    table=sql.Identifier(f"vectors_{part}"),
                    type=sql.Identifier(self.namespace, "halfvec"),
                    dimensions=sql.Literal(self.dimensions),
                    operators=sql.Identifier(self.namespace, "halfvec_cosine_ops"),
                    model=self._model_literal(),
                )
            )

    def nearest_first(self, limit: int) -> sql.Composed:
        """The statement that asks the index."""
        return sql.SQL(
            """SELECT doc FROM vectors
            WHERE tenant = %(tenant)s AND model = {model} AND near IS NOT NULL
            ORDER BY near::{type}({dimensions}) OPERATOR({namespace}.<=>)
                %(query)s::real[]::{type}({dimensions}) LIMIT {limit}"""
        ).format(
            model=self._model_literal(),
            type=sql.Identifier(self.namespace, "halfvec"),
            namespace=sql.Identifier(self.namespace),
            dimensions=sql.Literal(self.dimensions),
            limit=sql.Literal(limit),
        )

    def _model_literal(self) -> sql.Literal:
        """A constant, so that the index is seen to hold what is asked for."""
        return sql.Literal(self.model.encode("utf-8", "surrogatepass"))

    def _half(self, vectors: bytes) -> str:
        """A document's only vector as pgvector reads it; empty where there is no such."""
        values = np.frombuffer(vectors, np.float32)
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if len(values) != self.dimensions or not np.isfinite(halves).all():
            return ""
        return f"[{','.join(map(str, halves.tolist()))}]"


def prepare_nearness(
    owner: PostgresOptions, model: str, dimensions: int, *, exact_below: int = EXACT_BELOW
) -> PostgresNearness | None:
    """Make the column for a model's vectors; None where the database cannot help.

    Raises:
        StoreUnavailableError: the server cannot be used.
    """
    with available(owner.name), connected(owner) as connection:
        found = connection.execute(
            """SELECT extversion AS version, nspname AS namespace FROM pg_extension
            JOIN pg_namespace ON pg_namespace.oid = extnamespace WHERE extname = 'vector'"""
        ).fetchone()
        if found is None:
            return None
        version = tuple(int(part) for part in found["version"].split(".")[:2])
        if version < _MIN_VERSION or dimensions > MAX_DIMENSIONS:
            log.warning(
                "pgvector %s is not used for %d dimensions: it must be 0.8 or later, and they at most %d",
                *(found["version"], dimensions, MAX_DIMENSIONS),
            )
            return None
        nearness = PostgresNearness(model, dimensions, found["namespace"], exact_below)
        return nearness if _has_column(connection, owner.schema, nearness) else None


def index_vectors(owner: PostgresOptions, nearness: PostgresNearness) -> bool:
    """Make the index, unless it is there; what is written already takes minutes a million.

    Returns False where the role has not the right to.

    Raises:
        StoreUnavailableError: the server cannot be used.
    """
    with available(owner.name), connected(owner) as connection:
        _begin(connection, owner.schema)
        try:
            nearness.make_index(connection)
        except psycopg.errors.InsufficientPrivilege:
            log.warning(_NO_RIGHT)
            return False
    return True


def _has_column(
    connection: psycopg.Connection[DictRow], schema: str, nearness: PostgresNearness
) -> bool:
    """Whether there is the column now: the owner makes it."""
    _begin(connection, schema)
    known = connection.execute(
        """SELECT 1 FROM pg_attribute WHERE attrelid = 'vectors'::regclass AND attname = 'near'
        AND NOT attisdropped"""
    ).fetchone()
    if known is not None:
        return True
    halfvec = sql.Identifier(nearness.namespace, "halfvec")
    try:
        with connection.transaction():
            connection.execute(sql.SQL("ALTER TABLE vectors ADD COLUMN near {}").format(halfvec))
            connection.execute(
                "CREATE INDEX vectors_unfilled ON vectors (tenant, model) WHERE near IS NULL"
            )
    except psycopg.errors.InsufficientPrivilege:
        log.warning(_NO_RIGHT)
        return False
    return True


def _begin(connection: psycopg.Connection[DictRow], schema: str) -> None:
    """One process at a time, until the connection is closed."""
    connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
    connection.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(schema)))
