"""What the messages of `golden/kv_frames.json` mean."""

from __future__ import annotations

import json
from array import array
from pathlib import Path
from typing import Any

from shepherd_events.control import (
    ControlReply,
    ControlRequest,
    ReplayReply,
    ReplayRequest,
    SnapshotReply,
    SnapshotRequest,
    Status,
)
from shepherd_events.events import (
    Attribution,
    BlockBatch,
    BlockHash,
    BlocksCleared,
    BlocksRemoved,
    BlocksReused,
    BlocksStored,
    Body,
    CacheContext,
    Frame,
    Goodbye,
    Heartbeat,
    MediaKey,
    MediaSpan,
    Notice,
    SealedTokens,
    StreamId,
    StreamInfo,
    Tier,
    TierState,
    Tombstone,
    TurnCompleted,
)

GOLDEN: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "golden" / "kv_frames.json").read_text("utf-8")
)
"""Each message's bytes in hex, and its meaning."""

STREAM = StreamId("worker-a", 1)
EPOCH = 1_790_000_000_000_000_000
ORIGIN = Attribution("request-1", "session-1", "tenant-1", 2)
CONTEXT = CacheContext("lora-1", bytes.fromhex("0123456789abcdef"), "model-1")
RUN = BlocksStored(
    array("Q", [0x1111111111111111, 0xFFFFFFFFFFFFFFFF]),
    None,
    array("I", [1, 2, 3, 4294967295]),
    0,
    origin=ORIGIN,
)
IMAGE = MediaSpan(bytes.fromhex("00112233445566778899aabbccddeeff"), 3, 3)

SEALED = SealedTokens(bytes(range(8)), bytes(range(24)), b"ciphertext")


def frame(seq: int, body: Body) -> Frame:
    return Frame(STREAM, EPOCH, seq, EPOCH + seq, body)


FRAMES = {
    "stream_info": frame(
        1,
        StreamInfo(
            model="model-1",
            block_size=2,
            hash_algo="blake2b-64/v1",
            hash_seed_id=bytes.fromhex("00ff"),
            dp_size=2,
            replay_capacity=1 << 26,
            replay_endpoint="tcp://127.0.0.1:5558",
            tiers=(Tier.DEVICE, Tier.HOST),
            previous_epoch=EPOCH - 1,
            previous_head_seq=41,
            heartbeat_ms=1000,
            engine="embedded",
            engine_version="0.1.0",
            schema_minor=0,
        ),
    ),
    "stored": frame(2, BlockBatch((RUN,))),
    "a_move_to_the_host": frame(
        3,
        BlockBatch(
            (
                BlocksStored(
                    array("Q", [0xFFFFFFFFFFFFFFFF]),
                    BlockHash(0x1111111111111111),
                    array("I"),
                    1,
                    Tier.HOST,
                    CONTEXT,
                    ORIGIN,
                    group=1,
                ),
                BlocksRemoved(array("Q", [0xFFFFFFFFFFFFFFFF]), Tier.DEVICE, ORIGIN, group=1),
            )
        ),
    ),
    "reused": frame(
        4,
        BlockBatch(
            (BlocksReused(array("Q", [5]), BlockHash(4), 7, origin=Attribution("request-2")),)
        ),
    ),
    "cleared": frame(5, BlockBatch((BlocksCleared(Tier.HOST), BlocksCleared()))),
    "turn_completed": frame(
        6,
        TurnCompleted(
            origin=ORIGIN,
            prompt_tokens=3,
            cached_tokens=2,
            generated_tokens=2,
            last_block_hash=BlockHash(0xFFFFFFFFFFFFFFFF),
            num_full_blocks=2,
            tail_token_ids=array("I", [9]),
            finish_reason="stop",
            started_unix_ns=EPOCH + 5,
            context=CONTEXT,
            parent_session_id="session-0",
            session_final=True,
        ),
    ),
    "notice": frame(
        7,
        Notice(
            notice_id="notice-1",
            tenant="tenant-1",
            session_id="session-1",
            turns=(1, 2),
            archive_ids=("archive-1", "archive-2"),
            topic="caf\u00e9",
            text="moved",
            created_unix_ns=EPOCH + 7,
        ),
    ),
    "heartbeat": frame(
        8,
        Heartbeat(
            head_seq=8,
            first_available=2,
            tiers=(TierState(Tier.DEVICE, 2, 0xEEEEEEEEEEEEEEEE), TierState(Tier.HOST, 1, 5)),
            dropped_total=3,
        ),
    ),
    "tombstone": frame(9, Tombstone(8, 9, "queue full")),
    "goodbye": frame(10, Goodbye("drained")),
    "stored_with_an_image": frame(
        11,
        BlockBatch(
            (
                BlocksStored(array("Q", [3]), None, array("I", [1, 2]), 0),
                BlocksStored(
                    array("Q", [5, 6]),
                    BlockHash(3),
                    array("I", [7, 9, 9, 9]),
                    1,
                    media=(MediaKey(0, IMAGE), MediaKey(1, IMAGE)),
                ),
            )
        ),
    ),
    "stored_sealed": frame(
        12,
        BlockBatch(
            (
                BlocksStored(array("Q", [3]), None, array("I", [1, 2]), 0),
                BlocksStored(array("Q", [5]), BlockHash(3), array("I"), 1, sealed=SEALED),
            )
        ),
    ),
    "turn_sealed": frame(
        13,
        TurnCompleted(
            origin=ORIGIN,
            prompt_tokens=3,
            cached_tokens=0,
            generated_tokens=0,
            last_block_hash=None,
            num_full_blocks=0,
            tail_token_ids=array("I"),
            finish_reason="stop",
            started_unix_ns=EPOCH,
            sealed_tail=SEALED,
        ),
    ),
}
REQUESTS: dict[str, ControlRequest] = {
    "replay_request": ReplayRequest(STREAM, EPOCH, 2, 65536),
    "snapshot_request": SnapshotRequest(STREAM, bytes.fromhex("01"), 3, 65536),
}
REPLIES: dict[str, ControlReply] = {
    "replay_reply": ReplayReply(Status.OK, EPOCH, 2, 4, 10, 0, (b"\x01", b"\x02\x03")),
    "busy_reply": ReplayReply(Status.BUSY, EPOCH, retry_after_ms=250),
    "snapshot_reply": SnapshotReply(
        Status.OK, EPOCH, b"\x01", 10, 3, True, (RUN,), (TierState(Tier.DEVICE, 2, 1),)
    ),
}


def golden_bytes(name: str) -> bytes:
    """A message as it was released."""
    return bytes.fromhex(GOLDEN[name]["hex"])
