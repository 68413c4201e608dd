"""Durable turns per second and bytes per turn; the peer commits turn by turn, as it was written."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.figure import Figure, compare
from benchmarks.memory_stores import stores
from benchmarks.memory_turns import archive_all, spoken
from benchmarks.retrieval_peer import KeywordMemory
from shepherd_memory.archive.records import StoredTurn

NUM_TURNS = 5_000
NUM_PEER_TURNS = 500
BATCHES = (1, 10, 100)
GOALS = {"SQLite": 6_000.0, "PostgreSQL": 2_000.0}
"""Turns a second, 100 to a commit."""


def figures(rounds: int) -> list[Figure]:
    """Rates by turns to a transaction, then sizes, store by store."""
    opening = stores()
    rates: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
    sizes: defaultdict[str, list[float]] = defaultdict(list)
    peer_rates, peer_sizes = [], []
    for seed in range(rounds):
        turns = list(spoken(NUM_TURNS, seed=seed))
        for name, opened in opening.items():
            for batch in BATCHES:
                some = turns[: NUM_TURNS if batch > 1 else NUM_PEER_TURNS]
                with opened() as store:
                    archive = store.archives.of("t")
                    began = time.perf_counter()
                    archive_all(archive, some, batch=batch)
                    rates[name, batch].append(len(some) / (time.perf_counter() - began))
                    if batch == max(BATCHES):
                        sizes[name].append(store.size_bytes() / NUM_TURNS)
        rate, size = _peer(turns)
        peer_rates.append(rate)
        peer_sizes.append(size)
    return [
        *_rates(rates, peer_rates),
        *(
            compare(
                f"size of a turn of 45 words, {name}",
                mine,
                peer_sizes,
                peer_name="keyword memory",
                unit="bytes",
                less_is_better=True,
            )
            for name, mine in sizes.items()
        ),
    ]


def _rates(rates: dict[tuple[str, int], list[float]], peer_rates: Sequence[float]) -> list[Figure]:
    rows = []
    for (name, batch), mine in rates.items():
        figure = f"archived in {name}, {batch} to a commit"
        rows.append(compare(figure, mine, peer_rates, peer_name="keyword memory", unit="turns/s"))
        if batch == max(BATCHES):
            goal = [GOALS[name]]
            rows.append(
                compare(f"{figure}, goal", mine, goal, peer_name="goal", unit="turns/s", goal=1.0)
            )
    return rows


def _peer(turns: Sequence[StoredTurn]) -> tuple[float, float]:
    """Turns a second and bytes a turn."""
    with TemporaryDirectory() as directory:
        peer = KeywordMemory(Path(directory) / "peer.db")
        began = time.perf_counter()
        peer.archive_all("t", turns[:NUM_PEER_TURNS])
        rate = NUM_PEER_TURNS / (time.perf_counter() - began)
        peer.archive_together("t", turns[NUM_PEER_TURNS:])
        return rate, peer.size_bytes() / len(turns)
