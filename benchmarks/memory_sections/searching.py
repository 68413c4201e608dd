"""Searches of one tenant in SQLite with 10^3, 10^4 and 10^5 turns, by words alone.

The peer has the same turns in its one file, of one user.  SHEPHERD_BENCH_TURNS=1000000 adds
10^6 turns, which take some five minutes to load.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.figure import Figure, compare
from benchmarks.memory_sections.block_index import resident_bytes
from benchmarks.memory_turns import archive_all, spoken, word_of
from benchmarks.retrieval_peer import KeywordMemory
from shepherd_memory.archive.files import SqliteArchives
from shepherd_memory.search import Question, Searcher

SIZES = (1_000, 10_000, 100_000)
BATCH = 5_000
REMEMBERED_SIZE = 100_000
"""Turns from which on what is kept of them outweighs what a first search costs anyway."""
QUERIES = 50
WORDS_PER_QUERY = 6
GOAL_MS = 5.0
"""p95 at a thousand turns."""


def figures(rounds: int) -> list[Figure]:
    """p50 and p95 in milliseconds, bytes a turn on disk and in memory, by size."""
    rows: list[Figure] = []
    largest = int(os.environ.get("SHEPHERD_BENCH_TURNS", "0"))
    sizes = (*SIZES, largest) if largest > max(SIZES) else SIZES
    with TemporaryDirectory() as directory:
        archives, searcher = SqliteArchives(Path(directory)), Searcher()
        archive, peer = archives.of("t"), KeywordMemory(Path(directory) / "peer.db")
        turns, loaded = spoken(max(sizes)), 0
        for size in sizes:
            while loaded < size:
                some = list(islice(turns, min(BATCH, size - loaded)))
                archive_all(archive, some, batch=BATCH)
                peer.archive_together("t", some)
                loaded += len(some)
            rows += _at(
                size,
                rounds,
                lambda query: searcher.search(archive, Question(query, 10)),
                lambda query: peer.search("t", query, 10),
            )
            mine, theirs = archive.stats().size_bytes / size, peer.size_bytes() / size
            rows.append(_bytes(f"{size:,} turns on disk", mine, theirs, "keyword memory"))
            if size >= REMEMBERED_SIZE:
                rows.append(_remembered(size, directory))
        archives.close()
    return rows


def _remembered(size: int, directory: str) -> Figure:
    """What a searcher keeps of a tenant, and what records of the same would take."""
    mine, theirs = (_in_a_process(remember, directory) / size for remember in (searched, listed))
    return _bytes(f"{size:,} turns in memory", mine, theirs, "list of records")


def _in_a_process(remember: Callable[[str], int], directory: str) -> int:
    with multiprocessing.get_context("spawn").Pool(1) as process:
        return process.apply(remember, (directory,))


def searched(directory: str) -> int:
    """Bytes of a process that a first search adds."""
    archives, searcher = SqliteArchives(Path(directory)), Searcher()
    archive, before = archives.of("t"), resident_bytes()
    searcher.search(archive, Question("w19999", 10))
    return resident_bytes() - before


def listed(directory: str) -> int:
    """Bytes of a process that a list of all documents adds."""
    archive, before = SqliteArchives(Path(directory)).of("t"), resident_bytes()
    documents = list(archive.documents(after=0))
    assert documents
    return resident_bytes() - before


def _bytes(name: str, mine: float, theirs: float, peer: str) -> Figure:
    return compare(name, [mine], [theirs], peer_name=peer, unit="B/turn", less_is_better=True)


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
