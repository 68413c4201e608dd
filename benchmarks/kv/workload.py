"""What both publishers tell: 8 stored runs of 8 blocks of 32 tokens, then 64 blocks removed."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from random import Random

from benchmarks.kv.msgpack_peer import BlockRemoved, BlockStored
from shepherd_events.events import (
    BlockEvent,
    BlockHash,
    BlocksRemoved,
    BlocksStored,
    StreamId,
    StreamInfo,
)

STREAM = StreamId("bench")
BLOCK_SIZE = 32
INFO = StreamInfo(model="bench", block_size=BLOCK_SIZE, hash_algo="blake2b-64/v1")
WARMING_UP = 1
"""Hash of the block whose removal is told until the listener hears."""
_RUN_BLOCKS, _RUNS = 8, 8


@dataclass(frozen=True, slots=True)
class Workload:
    """The same events for either publisher, in order."""

    ours: list[BlockEvent]
    peers: list[BlockStored | BlockRemoved]


def workload(num_events: int) -> Workload:
    """`num_events` events, the same at every call."""
    random = Random(7)  # noqa: S311 - a workload, no secret
    ours: list[BlockEvent] = []
    peers: list[BlockStored | BlockRemoved] = []
    told: list[int] = []
    while len(ours) < num_events:
        if len(told) == _RUNS * _RUN_BLOCKS:
            ours.append(BlocksRemoved(array("Q", told)))
            peers.append(BlockRemoved(told))
            told = []
            continue
        hashes = [random.getrandbits(64) | 2 for _ in range(_RUN_BLOCKS)]
        tokens = [random.randrange(50_000) for _ in range(_RUN_BLOCKS * BLOCK_SIZE)]
        parent = told[-1] if told else None
        ours.append(
            BlocksStored(
                array("Q", hashes),
                None if parent is None else BlockHash(parent),
                array("I", tokens),
                len(told),
            )
        )
        peers.append(BlockStored(hashes, parent, tokens, BLOCK_SIZE, "GPU"))
        told = told + hashes
    return Workload(ours, peers)


def num_blocks(events: list[BlockEvent]) -> int:
    """Blocks that are stored."""
    return sum(len(event.block_hashes) for event in events if isinstance(event, BlocksStored))
