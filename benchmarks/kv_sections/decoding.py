"""Decoding messages of 1, 16, 64 and 128 events: as columns that are read whole, and as ints."""

from __future__ import annotations

import time
from collections.abc import Callable
from zlib import crc32

from benchmarks.figure import Figure, compare
from benchmarks.kv.listener import read_msgpack, read_ours
from benchmarks.kv.msgpack_peer import ENCODER, EventBatch
from benchmarks.kv.workload import STREAM, num_blocks, workload
from shepherd_events.codec import decode_frame, encode_frame
from shepherd_events.events import BlockBatch, BlocksStored, Frame

EVENTS, BATCHES = 2_048, (1, 16, 64, 128)
GOALS = {1: 3.0, 16: 1.0, 64: 1.0, 128: 1.0}
READS_A_ROUND = 5


def figures(rounds: int) -> list[Figure]:
    """Blocks per second."""
    work = workload(EVENTS)
    blocks = num_blocks(work.ours) * READS_A_ROUND
    rows = []
    for size in BATCHES:
        frames = [
            encode_frame(Frame(STREAM, 1, 1 + at, 1, BlockBatch(tuple(work.ours[at : at + size]))))
            for at in range(0, EVENTS, size)
        ]
        peers = [
            ENCODER.encode(EventBatch(1.0, work.peers[at : at + size]))
            for at in range(0, EVENTS, size)
        ]
        columns, ints, theirs = list[float](), list[float](), list[float]()
        for _ in range(rounds):
            columns.append(blocks / _seconds(_read_columns, frames))
            theirs.append(blocks / _seconds(read_msgpack, peers))
            ints.append(blocks / _seconds(read_ours, frames))
        for what, mine, goal in (("columns", columns, GOALS[size]), ("ints", ints, 1.0)):
            figure = f"decode to {what}, {size} a message"
            rows.append(
                compare(figure, mine, theirs, peer_name="msgspec", unit="blocks/s", goal=goal)
            )
    return rows


def _read_columns(payload: bytes) -> int:
    """Decode, and read every token and hash once."""
    body, checksum = decode_frame(payload).body, 0
    assert isinstance(body, BlockBatch)
    for event in body.events:
        if isinstance(event, BlocksStored):
            checksum = crc32(event.block_hashes, crc32(event.token_ids, checksum))
    return checksum


def _seconds(read: Callable[[bytes], object], payloads: list[bytes]) -> float:
    began = time.perf_counter()
    for _ in range(READS_A_ROUND):
        for payload in payloads:
            read(payload)
    return time.perf_counter() - began
