"""From the removal of a turn's blocks to its being searchable, at 100 and 1,000 turns a second.

Frames arrive at their times whether we are ready or not; whatever has arrived is applied as
one batch, as the service does.  The peer is told of each turn and commits it by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np

from benchmarks.figure import Figure, compare
from benchmarks.memory_turns import spoken
from benchmarks.retrieval_peer import KeywordMemory
from shepherd_events.events import Frame
from shepherd_memory.archive.files import SqliteArchives
from shepherd_memory.clocks import Clocks
from shepherd_memory.consumer import Consumer
from shepherd_memory.fake import FakeWorker, SpelledTranscript
from shepherd_memory.index_store import IndexStore
from shepherd_memory.metrics import Metrics

SECONDS = 3
RATES = (100, 1_000)
MAX_BATCH = 256

T = TypeVar("T")


def figures(rounds: int) -> list[Figure]:
    """p50 and p99 in milliseconds."""
    rows = []
    for rate in RATES:
        ours: dict[int, list[float]] = {50: [], 99: []}
        peers: dict[int, list[float]] = {50: [], 99: []}
        for seed in range(rounds):
            for told, latencies in (
                (ours, _ours(rate, seed)),
                (peers, _peer(rate, seed)),
            ):
                for percentile, values in told.items():
                    values.append(1e3 * float(np.percentile(latencies, percentile)))
        rows += [
            compare(
                f"eviction to searchable at {rate}/s, p{percentile}",
                ours[percentile],
                peers[percentile],
                peer_name="keyword memory",
                unit="ms",
                less_is_better=True,
            )
            for percentile in (50, 99)
        ]
    return rows


def _ours(rate: int, seed: int) -> list[float]:
    number = rate * SECONDS
    with TemporaryDirectory() as directory:
        worker = FakeWorker(block_size=64)
        archives, store = SqliteArchives(Path(directory)), IndexStore(Path(directory) / "index.db")
        consumer = Consumer(
            archives=archives,
            store=store,
            transcripts={worker.stream: SpelledTranscript()},
            metrics=Metrics(),
            grace_ns=0,
            clocks=Clocks(),
        )
        evictions = _conversations(worker, consumer, number, seed)
        latencies = _paced(evictions, rate, consumer.apply)
        archived = archives.of("local").stats().archived_turns
        assert archived == number, f"{archived} of {number} turns are searchable"
        store.close()
        archives.close()
    return latencies


def _conversations(worker: FakeWorker, consumer: Consumer, number: int, seed: int) -> list[Frame]:
    """Conversations of two turns, applied; the removals of their first turns' blocks."""
    turns = spoken(number, seed=seed)
    removals = []
    for place, turn in enumerate(turns):
        said = [(message.role, message.text) for message in turn.messages]
        whole = [*said, ("user", "and then?"), ("assistant", "nothing")]
        consumer.apply(worker.complete(whole, session=f"s{place}"))
        removals.append(worker.blocks_of(whole)[:1])
    return [worker.evict(blocks) for blocks in removals]


def _peer(rate: int, seed: int) -> list[float]:
    turns = list(spoken(rate * SECONDS, seed=seed))
    with TemporaryDirectory() as directory:
        peer = KeywordMemory(Path(directory) / "peer.db")

        def archive(batch: Sequence[object]) -> None:
            del batch
            peer.archive("t", turns[len(done)])
            done.append(None)

        done: list[None] = []
        return _paced(turns, rate, archive, max_batch=1)


def _paced(
    arrivals: Sequence[T],
    rate: int,
    apply: Callable[[Sequence[T]], object],
    *,
    max_batch: int = MAX_BATCH,
) -> list[float]:
    """Seconds from when each was due until it was applied."""
    latencies: list[float] = []
    began = time.perf_counter()
    while len(latencies) < len(arrivals):
        first = len(latencies)
        now = time.perf_counter() - began
        due = min(len(arrivals), int(now * rate) + 1, first + max_batch)
        if due <= first:
            time.sleep(max(0.0, first / rate - now))
            continue
        apply(arrivals[first:due])
        done = time.perf_counter() - began
        latencies += [done - place / rate for place in range(first, due)]
    return latencies
