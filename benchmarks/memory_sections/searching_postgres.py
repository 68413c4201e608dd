"""Searches of one tenant in PostgreSQL beside the same turns in SQLite, 10^4 and 10^5 turns.

Needs a role without SUPERUSER that may make a schema, which is dropped afterwards:

    SHEPHERD_BENCH_POSTGRES=postgresql://role@localhost/database \
        python -m benchmarks.memory --section searching_postgres
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psycopg
from psycopg import sql

from benchmarks.figure import Figure, compare
from benchmarks.memory_turns import archive_all, spoken, word_of
from shepherd_memory.archive.files import SqliteArchives
from shepherd_memory.archive.postgres import PostgresArchives
from shepherd_memory.archive.postgres_migrations import prepare
from shepherd_memory.archive.postgres_pool import PostgresOptions, PostgresPool
from shepherd_memory.archive.protocol import Archive
from shepherd_memory.search import Question, Searcher

SIZES = (10_000, 100_000)
QUERIES = 50
WORDS_PER_QUERY = 6
BATCH = 500
_SCHEMA = "shepherd_benchmark"


def figures(rounds: int) -> list[Figure]:
    """p50 and p95 in milliseconds, and turns archived a second; none where no server is named."""
    url = os.environ.get("SHEPHERD_BENCH_POSTGRES", "")
    if not url:
        print("  left out: SHEPHERD_BENCH_POSTGRES names no server", flush=True)
        return []
    options = PostgresOptions(url=url, schema=_SCHEMA, statement_timeout_s=600)
    prepare(options)
    pool = PostgresPool(options)
    try:
        with TemporaryDirectory() as directory:
            return _compared(PostgresArchives(pool), SqliteArchives(Path(directory)), rounds)
    finally:
        pool.close()
        with psycopg.connect(url) as connection:
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(_SCHEMA)))


def _compared(ours: PostgresArchives, peers: SqliteArchives, rounds: int) -> list[Figure]:
    stores: tuple[Archive, Archive] = (ours.of("t"), peers.of("t"))
    turns, loaded, rows = spoken(max(SIZES)), 0, list[Figure]()
    for size in SIZES:
        rates: tuple[list[float], list[float]] = ([], [])
        while loaded < size:
            some = list(islice(turns, BATCH))
            for store, rate in zip(stores, rates, strict=True):
                rate.append(len(some) / _seconds(lambda: archive_all(store, some, batch=BATCH)))  # noqa: B023  called at once
            loaded += len(some)
        rows.append(
            compare(
                f"archive up to {size:,} turns, {BATCH} a transaction",
                *rates,
                peer_name="SQLite",
                unit="turns/s",
            )
        )
        rows += _searched(size, stores, rounds)
    peers.close()
    return rows


def _searched(size: int, stores: tuple[Archive, Archive], rounds: int) -> list[Figure]:
    """Both in turns, each once before its time is taken."""
    searchers = Searcher(), Searcher()
    for store, searcher in zip(stores, searchers, strict=True):
        searcher.search(store, Question("w1", 10))
    taken: dict[int, tuple[list[float], list[float]]] = {50: ([], []), 95: ([], [])}
    for seed in range(rounds):
        chance = random.Random(seed)  # noqa: S311  not for secrets
        queries = [
            Question(" ".join(word_of(chance) for _ in range(WORDS_PER_QUERY)), 10)
            for _ in range(QUERIES)
        ]
        for place, (store, searcher) in enumerate(zip(stores, searchers, strict=True)):
            times = [_seconds(lambda: searcher.search(store, each)) for each in queries]  # noqa: B023  called at once
            for percentile, both in taken.items():
                both[place].append(1e3 * float(np.percentile(times, percentile)))
    return [
        compare(
            f"search of {size:,} turns in PostgreSQL, p{percentile}",
            *both,
            peer_name="SQLite",
            unit="ms",
            less_is_better=True,
        )
        for percentile, both in taken.items()
    ]


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
