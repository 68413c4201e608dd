"""Decoding, tokens and hashes included, of messages of 1, 16 and 128 events."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.figure import Figure, compare
from benchmarks.kv.msgpack_peer import DECODER, ENCODER, EventBatch
from benchmarks.kv.workload import STREAM, num_blocks, workload
from shepherd_events.codec import decode_frame, encode_frame
from shepherd_events.events import BlockBatch, Frame

EVENTS, BATCHES = 2_048, (1, 16, 128)
GOALS = {1: None, 16: 1.0, 128: 1.0}


def figures(rounds: int) -> list[Figure]:
    """Blocks per second."""
    work = workload(EVENTS)
    blocks = num_blocks(work.ours)
    rows = []
    for size in BATCHES:
        ours = [
            encode_frame(Frame(STREAM, 1, 1 + at, 1, BlockBatch(tuple(work.ours[at : at + size]))))
            for at in range(0, EVENTS, size)
        ]
        peers = [
            ENCODER.encode(EventBatch(1.0, work.peers[at : at + size]))
            for at in range(0, EVENTS, size)
        ]
        mine, theirs = [], []
        for _ in range(rounds):
            mine.append(blocks / _seconds(decode_frame, ours))
            theirs.append(blocks / _seconds(DECODER.decode, peers))
        rows.append(
            compare(
                f"decode, {size} events a message",
                mine,
                theirs,
                peer_name="msgspec",
                unit="blocks/s",
                goal=GOALS[size],
            )
        )
    return rows


def _seconds(decode: Callable[[bytes], object], payloads: list[bytes]) -> float:
    began = time.perf_counter()
    for payload in payloads:
        decode(payload)
    return time.perf_counter() - began
