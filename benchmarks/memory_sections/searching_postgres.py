"""Searches of one tenant in PostgreSQL beside the same turns in SQLite, 10^4 and 10^5 turns.

Needs a PostgreSQL, see `memory_stores.py`.  SHEPHERD_BENCH_TURNS=1000000 adds 10^6 turns, which take
some ten minutes to load.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np

from benchmarks.figure import Figure, compare
from benchmarks.memory_stores import OpenStores, postgres, sqlite
from benchmarks.memory_turns import archive_all, spoken, word_of
from shepherd_memory.archive.protocol import Archive
from shepherd_memory.search import Question, Searcher

SIZES = (10_000, 100_000)
QUERIES = 50
WORDS_PER_QUERY = 6
BATCH = 500


def figures(rounds: int) -> list[Figure]:
    """Turns archived a second, p50 and p95 in milliseconds, bytes a turn; none without a server."""
    url = os.environ.get("SHEPHERD_BENCH_POSTGRES", "")
    if not url:
        print("  left out: SHEPHERD_BENCH_POSTGRES names no server", flush=True)
        return []
    largest = int(os.environ.get("SHEPHERD_BENCH_TURNS", "0"))
    sizes = (*SIZES, largest) if largest > max(SIZES) else SIZES
    with postgres(url) as ours, sqlite() as peers:
        return _compared((ours, peers), sizes, rounds)


def _compared(
    opened: tuple[OpenStores, OpenStores], sizes: Sequence[int], rounds: int
) -> list[Figure]:
    archives = opened[0].archives.of("t"), opened[1].archives.of("t")
    turns, loaded, rows = spoken(max(sizes)), 0, list[Figure]()
    for size in sizes:
        rates: tuple[list[float], list[float]] = ([], [])
        while loaded < size:
            some = list(islice(turns, BATCH))
            for archive, rate in zip(archives, rates, strict=True):
                seconds = _seconds(lambda: archive_all(archive, some, batch=BATCH))  # noqa: B023  called at once
                rate.append(len(some) / seconds)
            loaded += len(some)
        rows.append(
            compare(
                f"archive up to {size:,} turns, {BATCH} a transaction",
                *rates,
                peer_name="SQLite",
                unit="turns/s",
            )
        )
        rows += _searched(size, archives, rounds)
        bytes_each = [[store.size_bytes() / size] for store in opened]
        rows.append(
            compare(
                f"bytes a turn of {size:,}",
                *bytes_each,
                peer_name="SQLite",
                unit="bytes",
                less_is_better=True,
            )
        )
    return rows


def _searched(size: int, archives: tuple[Archive, Archive], rounds: int) -> list[Figure]:
    """Both in turns, each once before its time is taken."""
    searchers = Searcher(), Searcher()
    for archive, searcher in zip(archives, searchers, strict=True):
        searcher.search(archive, Question("w1", 10))
    taken: dict[int, tuple[list[float], list[float]]] = {50: ([], []), 95: ([], [])}
    for seed in range(rounds):
        chance = random.Random(seed)  # noqa: S311  not for secrets
        queries = [
            Question(" ".join(word_of(chance) for _ in range(WORDS_PER_QUERY)), 10)
            for _ in range(QUERIES)
        ]
        for place, (archive, searcher) in enumerate(zip(archives, searchers, strict=True)):
            times = [_seconds(lambda: searcher.search(archive, each)) for each in queries]  # noqa: B023  called at once
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
