"""Searches of one tenant with 10^3 to 10^6 turns, by words alone; the last takes minutes to load.

The peer has the same turns in its one file, of one user.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.figure import Figure, compare
from benchmarks.memory_turns import archive_all, spoken, word_of
from benchmarks.retrieval_peer import KeywordMemory
from shepherd_memory.archive.files import SqliteArchives
from shepherd_memory.search import Question, Searcher

SIZES = (1_000, 10_000, 100_000, 1_000_000)
QUERIES = 50
WORDS_PER_QUERY = 6
GOAL_MS = 5.0
"""p95 at a thousand turns."""


def figures(rounds: int) -> list[Figure]:
    """p50 and p95 in milliseconds."""
    rows: list[Figure] = []
    with TemporaryDirectory() as directory:
        archives, searcher = SqliteArchives(Path(directory)), Searcher()
        archive, peer = archives.of("t"), KeywordMemory(Path(directory) / "peer.db")
        turns, loaded = spoken(max(SIZES)), 0
        for size in SIZES:
            while loaded < size:
                some = list(islice(turns, min(1000, size - loaded)))
                archive_all(archive, some, batch=1000)
                peer.archive_together("t", some)
                loaded += len(some)
            rows += _at(
                size,
                rounds,
                lambda query: searcher.search(archive, Question(query, 10)),
                lambda query: peer.search("t", query, 10),
            )
        archives.close()
    return rows


def _at(
    size: int,
    rounds: int,
    ours: Callable[[str], object],
    peer: Callable[[str], object],
) -> list[Figure]:
    """Ours and the peer's in turns, each once before its time is taken."""
    ours("w1")
    peer("w1")
    mine: dict[int, list[float]] = {50: [], 95: []}
    theirs: dict[int, list[float]] = {50: [], 95: []}
    for seed in range(rounds):
        chance = random.Random(seed)  # noqa: S311  not for secrets
        queries = [
            " ".join(word_of(chance) for _ in range(WORDS_PER_QUERY)) for _ in range(QUERIES)
        ]
        for told, search in ((mine, ours), (theirs, peer)):
            times = [_seconds(search, query) for query in queries]
            for percentile, values in told.items():
                values.append(1e3 * float(np.percentile(times, percentile)))
    rows = [
        compare(
            f"search of {size:,} turns, p{percentile}",
            mine[percentile],
            theirs[percentile],
            peer_name="keyword memory",
            unit="ms",
            less_is_better=True,
        )
        for percentile in (50, 95)
    ]
    if size == SIZES[0]:
        rows.append(
            compare(
                f"search of {size:,} turns, p95, goal",
                mine[95],
                [GOAL_MS],
                peer_name="goal",
                unit="ms",
                goal=1.0,
                less_is_better=True,
            )
        )
    return rows


def _seconds(search: Callable[[str], object], query: str) -> float:
    began = time.perf_counter()
    search(query)
    return time.perf_counter() - began
