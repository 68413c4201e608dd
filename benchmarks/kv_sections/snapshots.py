"""A snapshot of a million blocks is read while 5,000 events a second change what is resident."""

from __future__ import annotations

import gc
import time
from array import array
from collections import deque
from collections.abc import Callable
from random import Random

from benchmarks.figure import Figure, compare
from benchmarks.kv.control_reader import ControlReader
from benchmarks.kv.workload import BLOCK_SIZE, INFO, STREAM
from shepherd_events.events import BlocksRemoved, BlocksStored
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.resident_set import ResidentSet
from shepherd_events.transports.zmq import ZmqPublisherTransport

BLOCKS, RUN_BLOCKS, EVENTS_PER_S, QUIET_S = 1_000_000, 8, 5_000, 3.0
EVENTS_BETWEEN_LOOKS = 50
GOAL_MS = 5.0


def figures(rounds: int) -> list[Figure]:
    """Milliseconds that the publisher is held up, then blocks per second."""
    quiet, busy, p999, rates = list[float](), list[float](), list[float](), list[float]()
    engine = _Engine()
    try:
        with ControlReader("snapshot", engine.publisher.address) as reader:
            for _ in range(rounds):
                end = time.monotonic() + QUIET_S
                quiet.append(engine.run_until(lambda end=end: time.monotonic() > end)[-1])  # type: ignore[misc]
                reader.ask()
                took = engine.run_until(lambda: reader.is_done)
                busy.append(took[-1])
                p999.append(took[len(took) * 999 // 1000])
                seconds, count = reader.answer()
                assert BLOCKS <= count <= BLOCKS + RUN_BLOCKS, count
                rates.append(count / seconds)
    finally:
        engine.publisher.close("done")
    views, copies = _holding_still(rounds)
    name = "longest publish() in a snapshot"
    still = "hold a million blocks still"
    return [
        compare(still, views, copies, peer_name="copy of a dict", unit="ms", less_is_better=True),
        compare(
            still, views, [GOAL_MS], peer_name="the goal", unit="ms", goal=1.0, less_is_better=True
        ),
        compare(name, busy, quiet, peer_name="no snapshot", unit="ms", less_is_better=True),
        compare(
            name, busy, [GOAL_MS], peer_name="the goal", unit="ms", goal=1.0, less_is_better=True
        ),
        compare(
            "publish() p99.9 in a snapshot",
            p999,
            [GOAL_MS],
            peer_name="the goal",
            unit="ms",
            goal=1.0,
            less_is_better=True,
        ),
        compare("snapshot", rates, [float(BLOCKS)], peer_name="a second each", unit="blocks/s"),
    ]


class _Engine:
    """Stores a run, removes the oldest one, and so on, at a steady rate.

    What was there before is kept from the garbage collector, which would hold the
    whole interpreter up for 0.15 s, snapshot or not.
    """

    def __init__(self) -> None:
        self.publisher = KvEventPublisher(
            STREAM, INFO, ZmqPublisherTransport(), max_queued_events=1_000_000, ring_bytes=1 << 20
        )
        self.publisher.start()
        self._random = Random(3)  # noqa: S311 - a workload, no secret
        self._tokens = array("I", range(RUN_BLOCKS * BLOCK_SIZE))
        self._held: deque[array[int]] = deque()
        for _ in range(BLOCKS // RUN_BLOCKS):
            self.publisher.publish([self._store()])
        while self.publisher.counters.events < BLOCKS // RUN_BLOCKS:
            time.sleep(0.05)
        gc.collect()
        gc.freeze()

    def run_until(self, is_over: Callable[[], bool]) -> list[float]:
        """Milliseconds that each publish() took, in ascending order."""
        took: list[float] = []
        due = time.monotonic()
        while len(took) % EVENTS_BETWEEN_LOOKS or not is_over():
            event = self._remove() if len(took) % 2 else self._store()
            if (wait := due - time.monotonic()) > 0:
                time.sleep(wait)
            due += 1 / EVENTS_PER_S
            at = time.perf_counter()
            self.publisher.publish([event])
            took.append((time.perf_counter() - at) * 1e3)
        return sorted(took)

    def _store(self) -> BlocksStored:
        hashes = array("Q", (self._random.getrandbits(64) or 1 for _ in range(RUN_BLOCKS)))
        self._held.append(hashes)
        return BlocksStored(hashes, None, self._tokens, 0)

    def _remove(self) -> BlocksRemoved:
        return BlocksRemoved(self._held.popleft())


def _holding_still(rounds: int) -> tuple[list[float], list[float]]:
    """Milliseconds for a view of a set, and for a copy of a dictionary of as many blocks."""
    random = Random(4)  # noqa: S311 - a workload, no secret
    residents, table = ResidentSet(), dict[int, tuple[BlocksStored, int]]()
    for _ in range(BLOCKS // RUN_BLOCKS):
        hashes = array("Q", (random.getrandbits(64) or 1 for _ in range(RUN_BLOCKS)))
        run = BlocksStored(hashes, None, array("I"), 0)
        residents.apply(run)
        table.update(zip(hashes, ((run, index) for index in range(RUN_BLOCKS)), strict=True))
    views, copies = list[float](), list[float]()
    for _ in range(rounds):
        began = time.perf_counter()
        residents.view()
        between = time.perf_counter()
        table.copy()
        views.append((between - began) * 1e3)
        copies.append((time.perf_counter() - between) * 1e3)
    return views, copies
