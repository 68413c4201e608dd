"""The nearest of 20,000 vectors through pgvector, beside the product with all of them.

Vectors of 256 dimensions around 200 centres, the tenant's beside those of four others.  Needs a
PostgreSQL whose database has the extension (`CREATE EXTENSION vector`), see `memory_stores.py`.
"""

from __future__ import annotations

import os
import time

import numpy as np
import psycopg

from benchmarks.figure import Figure, compare
from benchmarks.memory_stores import postgres_pool
from benchmarks.memory_turns import archive_all, turn_of
from shepherd_memory.archive.postgres import PostgresArchives
from shepherd_memory.archive.postgres_nearness import index_vectors, prepare_nearness
from shepherd_memory.archive.protocol import Archive
from shepherd_memory.archive.records import StoredVectors
from shepherd_memory.retrieval.dense import Matrix, VectorMatrix, normalised

MODEL, DIMENSIONS = "benchmark", 256
SIZES = {"t": 20_000, "u": 5_000, "v": 5_000, "w": 5_000, "x": 5_000}
CENTRES = 200
QUERIES = 50
CANDIDATES = 200
BATCH = 500


def figures(rounds: int) -> list[Figure]:
    """Recall at 10 and 200, then milliseconds; none where there is no pgvector."""
    url = os.environ.get("SHEPHERD_BENCH_POSTGRES", "")
    if not _has_pgvector(url):
        print("  left out: SHEPHERD_BENCH_POSTGRES names no server with pgvector", flush=True)
        return []
    with postgres_pool(url) as (options, pool):
        nearness = prepare_nearness(options, MODEL, DIMENSIONS)
        assert nearness is not None
        archives = PostgresArchives(pool, nearness=nearness)
        chance = np.random.default_rng(1)
        centres = chance.normal(size=(CENTRES, DIMENSIONS)).astype(np.float32)
        for tenant, size in SIZES.items():
            _fill(archives.of(tenant), tenant, _around(centres, size, chance))
        index_vectors(options, nearness)
        return _compared(archives.of("t"), centres, rounds)


def _has_pgvector(url: str) -> bool:
    if not url:
        return False
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'vector'")
        return found.fetchone() is not None


def _around(centres: Matrix, number: int, chance: np.random.Generator) -> Matrix:
    places = chance.integers(0, len(centres), size=number)
    apart = chance.normal(size=(number, DIMENSIONS)).astype(np.float32)
    return normalised(centres[places] + 0.7 * apart)


def _fill(archive: Archive, tenant: str, vectors: Matrix) -> None:
    turns = [turn_of(tenant, "s", 1 + place, [("user", "w")], 1) for place in range(len(vectors))]
    archive_all(archive, turns, batch=BATCH)
    rows = [StoredVectors(1 + place, row.tobytes()) for place, row in enumerate(vectors)]
    for first in range(0, len(rows), BATCH):
        with archive.writing() as writer:
            writer.put_vectors(MODEL, rows[first : first + BATCH])


def _compared(archive: Archive, centres: Matrix, rounds: int) -> list[Figure]:
    matrix = VectorMatrix.empty(DIMENSIONS).grown(archive.vectors(MODEL, after=0))
    places = np.arange(len(matrix.owners) + 1) - 1
    recall: dict[int, list[float]] = {10: [], CANDIDATES: []}
    mine, exact = [], []
    for seed in range(rounds):
        found: dict[int, list[float]] = {limit: [] for limit in recall}
        times: list[tuple[float, float]] = []
        for query in _around(centres, QUERIES, np.random.default_rng(100 + seed)):
            began = time.perf_counter()
            docs = archive.nearest(MODEL, query.tolist(), limit=CANDIDATES)
            asked = time.perf_counter()
            cosines = matrix.nearness(query, places, len(matrix.owners))
            times.append((asked - began, time.perf_counter() - asked))
            assert docs is not None
            ranked = 1 + np.argsort(-cosines)
            for limit, shares in found.items():
                shares.append(len(set(docs[:limit]) & set(ranked[:limit].tolist())) / limit)
        for limit, shares in found.items():
            recall[limit].append(float(np.mean(shares)))
        both = 1e3 * np.median(times, axis=0)
        mine.append(float(both[0]))
        exact.append(float(both[1]))
    return [
        *(
            compare(
                f"recall of the nearest {limit} of {SIZES['t']:,}",
                shares,
                [1.0],
                peer_name="exact",
                unit="share",
            )
            for limit, shares in recall.items()
        ),
        compare(
            f"nearest {CANDIDATES} of {SIZES['t']:,}, p50",
            mine,
            exact,
            peer_name="product with all, in memory",
            unit="ms",
            less_is_better=True,
        ),
    ]
