"""Durable turns per second and bytes per turn; the peer commits turn by turn, as it was written."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.figure import Figure, compare
from benchmarks.memory_turns import archive_all, spoken
from benchmarks.retrieval_peer import KeywordMemory
from shepherd_memory.archive.files import SqliteArchives

NUM_TURNS = 5_000
NUM_PEER_TURNS = 500
BATCHES = (1, 10, 100)


def figures(rounds: int) -> list[Figure]:
    """Rates by turns to a transaction, then sizes."""
    rates: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    peers, sizes, peer_sizes = [], [], []
    for seed in range(rounds):
        turns = list(spoken(NUM_TURNS, seed=seed))
        with TemporaryDirectory() as directory:
            for batch in BATCHES:
                archives = SqliteArchives(Path(directory) / str(batch))
                some = turns[: NUM_TURNS if batch > 1 else NUM_PEER_TURNS]
                began = time.perf_counter()
                archive_all(archives.of("t"), some, batch=batch)
                rates[batch].append(len(some) / (time.perf_counter() - began))
                archives.close()
            sizes.append(
                SqliteArchives(Path(directory) / "100").of("t").stats().size_bytes / NUM_TURNS
            )
            peer = KeywordMemory(Path(directory) / "peer.db")
            began = time.perf_counter()
            peer.archive_all("t", turns[:NUM_PEER_TURNS])
            peers.append(NUM_PEER_TURNS / (time.perf_counter() - began))
            peer.archive_all("t", turns[NUM_PEER_TURNS:])
            peer_sizes.append(peer.size_bytes() / NUM_TURNS)
    rows = [
        compare(
            f"archived, {batch} to a commit",
            rates[batch],
            peers,
            peer_name="keyword memory",
            unit="turns/s",
        )
        for batch in BATCHES
    ]
    return [
        *rows,
        compare(
            "size of a turn of 45 words",
            sizes,
            peer_sizes,
            peer_name="keyword memory",
            unit="bytes",
            less_is_better=True,
        ),
    ]
