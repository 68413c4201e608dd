"""What a million indexed blocks cost in memory, and what following them costs in time.

Blocks of 16 tokens in conversations of 50, turns of five blocks that wait for them; the
peer is the index that one writes first: a dict of hashes to records with lists of tokens
and sets of named holders.  Each measurement is a process of its own, because memory that
was used before hides what is used now.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.figure import Figure, compare
from shepherd_events.events import BlockHash, BlocksStored, StreamId
from shepherd_memory.block_index import BlockIndex
from shepherd_memory.eviction import EvictionWatch, TurnKey

NUM_BLOCKS = 1_000_000
BLOCK_SIZE, BLOCKS_A_TALK, BLOCKS_A_TURN = 16, 50, 5
GOAL = 2.0


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one index that holds everything."""

    bytes_per_block: float
    us_per_block: float


def figures(rounds: int) -> list[Figure]:
    """Memory and time per block: index alone, and with the turns that wait."""
    spawned = multiprocessing.get_context("spawn")
    costs: dict[str, list[Cost]] = {"index": [], "watched": [], "peer": []}
    for _ in range(rounds):
        for name, taken in costs.items():
            with spawned.Pool(1) as process:
                taken.append(process.apply(_COSTS[name]))
    peer = costs["peer"]
    return [
        _compared("a million blocks, index", costs["index"], peer),
        _compared("a million blocks, index and turns", costs["watched"], peer, goal=None),
        compare(
            "following a block",
            [cost.us_per_block for cost in costs["index"]],
            [cost.us_per_block for cost in peer],
            peer_name="dict of sets",
            unit="us/block",
            less_is_better=True,
        ),
    ]


def _compared(name: str, ours: list[Cost], peer: list[Cost], goal: float | None = GOAL) -> Figure:
    return compare(
        name,
        [cost.bytes_per_block for cost in ours],
        [cost.bytes_per_block for cost in peer],
        peer_name="dict of sets",
        unit="B/block",
        goal=goal,
        less_is_better=True,
    )


def index_cost() -> Cost:
    """Our index, without what a disk would take from it."""
    index = BlockIndex()

    def follow(run: BlocksStored) -> None:
        index.stored(_STREAM, run)
        index.take_touched()

    return _measured(follow)


def watched_cost() -> Cost:
    """Our index, and the turns that wait for its blocks."""
    index, watch = BlockIndex(), EvictionWatch()

    def follow(run: BlocksStored) -> None:
        index.stored(_STREAM, run)
        index.take_touched()
        for start in range(0, BLOCKS_A_TALK, BLOCKS_A_TURN):
            key = TurnKey("local", os.urandom(32).hex())
            watch.watch(key, run.block_hashes[start : start + BLOCKS_A_TURN])

    return _measured(follow)


@dataclass
class _Record:
    parent: int | None
    tokens: list[int]
    holders: set[tuple[str, str]] = field(default_factory=set)


def peer_cost() -> Cost:
    """The index that one writes first."""
    blocks: dict[int, _Record] = {}

    def follow(run: BlocksStored) -> None:
        tokens = run.token_ids.tolist()
        parent: int | None = run.parent_hash
        for place, block_hash in enumerate(run.block_hashes):
            own = tokens[place * BLOCK_SIZE : (place + 1) * BLOCK_SIZE]
            record = blocks.setdefault(block_hash, _Record(parent, own))
            record.holders.add((_STREAM.worker_id, "device"))
            parent = block_hash

    return _measured(follow)


_STREAM = StreamId("w1")
_COSTS: dict[str, Callable[[], Cost]] = {
    "index": index_cost,
    "watched": watched_cost,
    "peer": peer_cost,
}


def _measured(follow: Callable[[BlocksStored], None]) -> Cost:
    gc.collect()
    before, busy_s = resident_bytes(), 0.0
    for run in _runs():
        began = time.process_time()
        follow(run)
        busy_s += time.process_time() - began
    gc.collect()
    grown = resident_bytes() - before
    return Cost(grown / NUM_BLOCKS, busy_s * 1e6 / NUM_BLOCKS)


def _runs() -> Iterator[BlocksStored]:
    for _ in range(NUM_BLOCKS // BLOCKS_A_TALK):
        hashes = array("Q", os.urandom(8 * BLOCKS_A_TALK))
        halves = array("H", os.urandom(2 * BLOCK_SIZE * BLOCKS_A_TALK))
        parent: BlockHash | None = None
        yield BlocksStored(hashes, parent, array("I", halves), 0)


def resident_bytes() -> int:
    """Of this process, in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
