"""From the removal of a turn's blocks to its being searchable, at 100 and 1,000 turns a second.

The service's own path from the queue on: frames are put into it at their times, whether it is
ready or not, and are batched, judged, archived, told of and committed as ever.  Without the
grace (`--archive-grace-s`), which is waited for on purpose, and without the stream's way here
(benchmarks/kv_stream.py).  Vectors follow later; by words a turn is found at once.

The peer is told of each turn and commits it by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.figure import Figure, compare
from benchmarks.memory_stores import OpenStores, stores
from benchmarks.memory_turns import spoken
from benchmarks.retrieval_peer import KeywordMemory
from shepherd_events.events import Frame, Notice
from shepherd_memory.applier import Applier
from shepherd_memory.arrivals import Arrival
from shepherd_memory.clocks import Clocks
from shepherd_memory.consumer import Consumer
from shepherd_memory.fake import FakeWorker, SpelledTranscript
from shepherd_memory.metrics import Metrics
from shepherd_memory.notifier import Bell
from shepherd_memory.writer import WriterThread

SECONDS = 3
RATES = (100, 1_000)
PERCENTILES = (50, 99)


class TimedConsumer(Consumer):
    """Says when each batch was committed."""

    committed: list[tuple[float, int]]
    """The time and how many arrivals."""

    def apply(self, arrivals: Sequence[Arrival]) -> tuple[Notice, ...]:
        """See `Consumer.apply`."""
        notices = super().apply(arrivals)
        self.committed.append((time.perf_counter(), len(arrivals)))
        return notices


def figures(rounds: int) -> list[Figure]:
    """p50 and p99 in milliseconds, and how many turns a commit held."""
    rows = []
    opening = stores()
    for rate in RATES:
        mine: dict[str, list[list[float]]] = {name: [] for name in opening}
        peers: list[list[float]] = []
        for seed in range(rounds):
            for name, opened in opening.items():
                mine[name].append(_ours(opened, rate, seed))
            peers.append(_peer(rate, seed))
        rows += [
            compare(
                f"eviction to searchable at {rate}/s, {name}, p{percentile}",
                _milliseconds(latencies, percentile),
                _milliseconds(peers, percentile),
                peer_name="keyword memory",
                unit="ms",
                less_is_better=True,
            )
            for name, latencies in mine.items()
            for percentile in PERCENTILES
        ]
    return rows


def _milliseconds(rounds: Sequence[Sequence[float]], percentile: int) -> list[float]:
    return [1e3 * float(np.percentile(latencies, percentile)) for latencies in rounds]


def _ours(
    opened: Callable[[], AbstractContextManager[OpenStores]], rate: int, seed: int
) -> list[float]:
    number = rate * SECONDS
    worker = FakeWorker(block_size=64)
    with opened() as store:
        metrics = Metrics()
        consumer = TimedConsumer(
            archives=store.archives,
            store=store.state,
            transcripts={worker.stream: SpelledTranscript()},
            metrics=metrics,
            grace_ns=0,
            clocks=Clocks(),
        )
        consumer.committed = []
        evictions = _conversations(worker, consumer, number, seed)
        began = asyncio.run(_put(evictions, rate, consumer, metrics))
        archived = store.archives.of("local").stats().archived_turns
        assert archived == number, f"{archived} of {number} turns are searchable"
    done = [at for at, arrivals in consumer.committed for _ in range(arrivals)][-number:]
    return [at - began - place / rate for place, at in enumerate(done)]


def _conversations(
    worker: FakeWorker, consumer: TimedConsumer, number: int, seed: int
) -> list[Frame]:
    """Conversations of two turns, applied; the removals of their first turns' blocks."""
    removals = []
    turns = enumerate(spoken(number, seed=seed))
    while some := list(islice(turns, 100)):
        frames: list[Frame] = []
        for place, turn in some:
            said = [(message.role, message.text) for message in turn.messages]
            whole = [*said, ("user", "and then?"), ("assistant", "nothing")]
            frames += worker.complete(whole, session=f"s{place}")
            removals.append(worker.blocks_of(whole)[:1])
        consumer.apply(frames)
    return [worker.evict(blocks) for blocks in removals]


async def _put(arrivals: Sequence[Frame], rate: int, consumer: Consumer, metrics: Metrics) -> float:
    """Put each into the queue at its time; returns when that began, after all are committed."""
    async with WriterThread() as writer:
        applier = Applier(
            consumer=consumer, writer=writer, bell=Bell(), metrics=metrics, clocks=Clocks()
        )
        running = asyncio.create_task(applier.run())
        began = time.perf_counter()
        for place, arrival in enumerate(arrivals):
            await asyncio.sleep(max(0.0, began + place / rate - time.perf_counter()))
            await applier.put(arrival)
        last = arrivals[-1]
        while consumer.positions[last.stream].seq < last.seq:  # noqa: ASYNC110  a commit rings no bell
            await asyncio.sleep(0.01)
        running.cancel()
    return began


def _peer(rate: int, seed: int) -> list[float]:
    """Seconds from when each turn was due until it was committed."""
    latencies = []
    with TemporaryDirectory() as directory:
        peer = KeywordMemory(Path(directory) / "peer.db")
        turns = list(spoken(rate * SECONDS, seed=seed))
        began = time.perf_counter()
        for place, turn in enumerate(turns):
            time.sleep(max(0.0, began + place / rate - time.perf_counter()))
            peer.archive("t", turn)
            latencies.append(time.perf_counter() - began - place / rate)
    return latencies
