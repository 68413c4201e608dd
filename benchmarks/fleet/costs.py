"""What one block and one turn cost here, measured with the code that ships.

Sizes are exact; times and memory are this machine's, one core, one process.
"""

from __future__ import annotations

import multiprocessing
import time
from array import array
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from benchmarks.memory_sections.block_index import index_cost
from benchmarks.memory_turns import archive_all, spoken
from shepherd_events.codec import decode_frame, encode_frame
from shepherd_events.events import (
    Attribution,
    BlockBatch,
    BlockHash,
    BlocksRemoved,
    BlocksStored,
    Frame,
    StreamId,
    TurnCompleted,
)
from shepherd_memory.archive.files import SqliteArchives

BLOCK_SIZE = 16
_EVENTS_A_FRAME, _BLOCKS_AN_EVENT = 16, 8
_VOCABULARY = 128_000
_NUM_TURNS = 2_000
_REPEATS = 40
_STREAM = StreamId("worker-1")


@dataclass(frozen=True, slots=True)
class Costs:
    """Of one block and one turn; times are CPU seconds of one core."""

    stored_block_bytes: float
    """On the wire, tokens included."""
    removed_block_bytes: float
    turn_bytes: float
    """On the wire: the frame of one completed turn."""
    encode_block_s: float
    decode_block_s: float
    index_block_s: float
    """Following one block in the memory's index."""
    index_block_bytes: float
    """Resident, a block of the index with its tokens."""
    archive_turn_s: float
    """Storing and archiving a turn of 45 words, 100 to a commit."""
    archive_turn_bytes: float
    """On disk, full-text index included."""


def measured() -> Costs:
    """Take all of them; about half a minute."""
    frame, removed, turn = _stored_frame(), _removed_frame(), _turn_frame()
    payload = encode_frame(frame)
    num_blocks = _EVENTS_A_FRAME * _BLOCKS_AN_EVENT
    archive_s, archive_bytes = _archiving()
    with multiprocessing.get_context("spawn").Pool(1) as process:
        index = process.apply(index_cost)
    return Costs(
        stored_block_bytes=len(payload) / num_blocks,
        removed_block_bytes=len(encode_frame(removed)) / num_blocks,
        turn_bytes=len(encode_frame(turn)),
        encode_block_s=_seconds(lambda: encode_frame(frame)) / num_blocks,
        decode_block_s=_seconds(lambda: decode_frame(payload)) / num_blocks,
        index_block_s=index.us_per_block / 1e6,
        index_block_bytes=index.bytes_per_block,
        archive_turn_s=archive_s,
        archive_turn_bytes=archive_bytes,
    )


def _stored_frame() -> Frame:
    random = Random(5)  # noqa: S311  a workload, no secret
    events = []
    for _ in range(_EVENTS_A_FRAME):
        hashes = array("Q", [random.getrandbits(64) for _ in range(_BLOCKS_AN_EVENT)])
        tokens = [random.randrange(_VOCABULARY) for _ in range(_BLOCKS_AN_EVENT * BLOCK_SIZE)]
        parent = BlockHash(random.getrandbits(64))
        events.append(BlocksStored(hashes, parent, array("I", tokens), 0, origin=_origin(random)))
    return Frame(_STREAM, 1, 1, 1, BlockBatch(tuple(events)))


def _removed_frame() -> Frame:
    random = Random(6)  # noqa: S311  a workload, no secret
    hashes = [random.getrandbits(64) for _ in range(_EVENTS_A_FRAME * _BLOCKS_AN_EVENT)]
    return Frame(_STREAM, 1, 1, 1, BlockBatch((BlocksRemoved(array("Q", hashes)),)))


def _turn_frame() -> Frame:
    random = Random(7)  # noqa: S311  a workload, no secret
    turn = TurnCompleted(
        origin=_origin(random),
        prompt_tokens=4_000,
        cached_tokens=3_000,
        generated_tokens=500,
        last_block_hash=BlockHash(random.getrandbits(64)),
        num_full_blocks=280,
        tail_token_ids=array("I", [random.randrange(_VOCABULARY) for _ in range(BLOCK_SIZE // 2)]),
        finish_reason="stop",
        started_unix_ns=1_700_000_000 * 10**9,
    )
    return Frame(_STREAM, 1, 1, 1, turn)


def _origin(random: Random) -> Attribution:
    request, session, tenant = (f"{random.getrandbits(128):032x}" for _ in range(3))
    return Attribution(request, session, tenant, 12)


def _archiving() -> tuple[float, float]:
    turns = list(spoken(_NUM_TURNS))
    with TemporaryDirectory() as directory:
        archives = SqliteArchives(Path(directory))
        began = time.process_time()
        archive_all(archives.of("t"), turns)
        seconds = (time.process_time() - began) / _NUM_TURNS
        size = archives.of("t").stats().size_bytes / _NUM_TURNS
        archives.close()
    return seconds, size


def _seconds(call: object) -> float:
    assert callable(call)
    began = time.process_time()
    for _ in range(_REPEATS):
        call()
    return (time.process_time() - began) / _REPEATS
