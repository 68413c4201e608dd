"""Control requests and replies, to bytes and back."""

from __future__ import annotations

from typing import Any

from shepherd_events.codec.batch_reader import decode_batch
from shepherd_events.codec.batch_writer import batch_field
from shepherd_events.codec.checksums import checked, with_checksum
from shepherd_events.codec.packed_columns import Part, field_head, is_whole, num_bytes
from shepherd_events.codec.shared_messages import tier_state_messages, tier_states
from shepherd_events.codec.wire import ControlReplyView, enum_of, parse, sized
from shepherd_events.control import (
    ControlReply,
    ControlRequest,
    ReplayReply,
    ReplayRequest,
    SnapshotReply,
    SnapshotRequest,
    Status,
)
from shepherd_events.errors import CodecError
from shepherd_events.events import BlockEvent, BlocksStored, StreamId
from shepherd_events.v1 import kv_events_pb2 as pb


def encode_request(request: ControlRequest) -> bytes:
    """The bytes of one control request.

    Raises:
        CodecError: a value that the wire cannot hold.
    """
    try:
        return _request_message(request).SerializeToString()
    except (TypeError, ValueError, OverflowError) as error:
        raise CodecError("request", str(error)) from error


def decode_request(payload: bytes) -> ControlRequest:
    """The control request that `payload` holds.

    Raises:
        CodecError: it is no valid request, or asks for what is not served.
    """
    message = parse(pb.ControlRequest, payload)
    match message.WhichOneof("request"):
        case "replay":
            replay = message.replay
            stream = StreamId(replay.worker_id, replay.dp_rank)
            return ReplayRequest(stream, replay.epoch, replay.from_seq, replay.max_bytes)
        case "snapshot":
            snapshot = message.snapshot
            if snapshot.tiers or snapshot.hashes_only:
                raise CodecError("snapshot.tiers", "partial snapshots are not served")
            stream = StreamId(snapshot.worker_id, snapshot.dp_rank)
            return SnapshotRequest(stream, snapshot.snapshot_id, snapshot.chunk, snapshot.max_bytes)
        case _:
            raise CodecError("request", "no request that is known")


def encode_reply(reply: ControlReply) -> bytes:
    """The bytes of one control reply.

    Raises:
        CodecError: a value that the wire cannot hold, or a reply that is too large.
    """
    try:
        if isinstance(reply, SnapshotReply):
            return sized(with_checksum(*_snapshot_parts(reply)))
        message = pb.ReplayReply(
            status=f"STATUS_{reply.status.name}",
            epoch=reply.epoch,
            first_available=reply.first_available,
            next_seq=reply.next_seq,
            head_seq=reply.head_seq,
            retry_after_ms=reply.retry_after_ms,
            frames=reply.frames,
        )
        return sized(with_checksum(pb.ControlReply(replay=message).SerializeToString()))
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise CodecError("reply", str(error)) from error


def decode_reply(payload: bytes) -> ControlReply:
    """The control reply that `payload` holds; frames of a replay stay bytes.

    Raises:
        ChecksumError: it is not what was written.
        CodecError: it is no valid reply.
    """
    message = parse(ControlReplyView, payload)
    checked(message, payload)
    match message.WhichOneof("reply"):
        case "replay":
            return _replay_reply(message.replay)
        case "snapshot":
            snapshot = message.snapshot
            events = decode_batch(
                snapshot.blocks,
                lambda: parse(pb.ControlReply, payload).snapshot.blocks,
                is_whole=is_whole(message, payload),
            )
            return _snapshot_reply(snapshot, events)
        case _:
            raise CodecError("reply", "no reply that is known")


def _request_message(request: ControlRequest) -> pb.ControlRequest:
    worker_id, dp_rank = request.stream.worker_id, request.stream.dp_rank
    if isinstance(request, ReplayRequest):
        replay = pb.ReplayRequest(
            worker_id=worker_id,
            dp_rank=dp_rank,
            epoch=request.epoch,
            from_seq=request.from_seq,
            max_bytes=request.max_bytes,
        )
        return pb.ControlRequest(replay=replay)
    snapshot = pb.SnapshotRequest(
        worker_id=worker_id,
        dp_rank=dp_rank,
        snapshot_id=request.snapshot_id,
        chunk=request.chunk,
        max_bytes=request.max_bytes,
    )
    return pb.ControlRequest(snapshot=snapshot)


def _snapshot_parts(reply: SnapshotReply) -> list[Part]:
    before = pb.SnapshotReply(
        status=f"STATUS_{reply.status.name}",
        epoch=reply.epoch,
        snapshot_id=reply.snapshot_id,
        as_of_seq=reply.as_of_seq,
        chunk=reply.chunk,
        last=reply.last,
    )
    after = pb.SnapshotReply(tiers=tier_state_messages(reply.tiers))
    number = pb.SnapshotReply.BLOCKS_FIELD_NUMBER
    blocks = batch_field(number, reply.blocks) if reply.blocks else []
    parts = (before.SerializeToString(), *blocks, after.SerializeToString())
    return [field_head(pb.ControlReply.SNAPSHOT_FIELD_NUMBER, num_bytes(parts)), *parts]


def _replay_reply(message: Any) -> ReplayReply:
    return ReplayReply(
        status=enum_of("replay.status", Status, message.status),
        epoch=message.epoch,
        first_available=message.first_available,
        next_seq=message.next_seq,
        head_seq=message.head_seq,
        retry_after_ms=message.retry_after_ms,
        frames=tuple(message.frames),
    )


def _snapshot_reply(message: Any, events: tuple[BlockEvent, ...]) -> SnapshotReply:
    blocks = tuple(event for event in events if isinstance(event, BlocksStored))
    if len(blocks) != len(events):
        raise CodecError("snapshot.blocks.op", "a snapshot holds STORED runs only")
    return SnapshotReply(
        status=enum_of("snapshot.status", Status, message.status),
        epoch=message.epoch,
        snapshot_id=message.snapshot_id,
        as_of_seq=message.as_of_seq,
        chunk=message.chunk,
        last=message.last,
        blocks=blocks,
        tiers=tier_states("snapshot.tiers", message.tiers),
    )
