"""Frames: the header, and one of the bodies.

A header that contradicts its body is refused on both sides: a heartbeat repeats
the number of its frame, `StreamInfo` is number 1, a tombstone ends at its number.
"""

from __future__ import annotations

from functools import lru_cache

from shepherd_events.codec import drafts
from shepherd_events.codec.batch_reader import decode_batch
from shepherd_events.codec.bodies import decode_body, encode_body
from shepherd_events.codec.checksums import checked, with_checksum
from shepherd_events.codec.packed_columns import is_whole
from shepherd_events.codec.wire import MAX_FRAME_BYTES, FrameView, parse, sized
from shepherd_events.errors import CodecError, UnknownFeaturesError
from shepherd_events.events import (
    BlockBatch,
    Body,
    Frame,
    Heartbeat,
    StreamId,
    StreamInfo,
    Tombstone,
)
from shepherd_events.v1 import kv_events_pb2 as pb

KNOWN_FEATURES = 0
"""Bits of `required_features` that this reader understands: none exist yet."""

_CACHED_STREAMS = 1024


def encode_frame(frame: Frame) -> bytes:
    """The bytes of one frame.

    Raises:
        CodecError: a value that the wire cannot hold or no reader would accept.
    """
    try:
        _check_numbers(frame)
        stream = frame.stream
        numbers = pb.Frame(
            seq=frame.seq,
            ts_unix_ns=frame.ts_unix_ns,
            required_features=frame.required_features,
        )
        whole = with_checksum(
            _stream_head(stream.worker_id, stream.dp_rank, frame.epoch),
            numbers.SerializeToString(),
            *encode_body(frame.body),
        )
        return sized(whole, MAX_FRAME_BYTES)
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise CodecError("frame", str(error)) from error


def decode_frame(payload: bytes) -> Frame:
    """The frame that `payload` holds.

    Raises:
        ChecksumError: it is not what was written.
        UnknownFeaturesError: it may not be applied by this reader.
        CodecError: it is not a valid frame.
    """
    message = parse(FrameView, payload, MAX_FRAME_BYTES)
    checksum = checked(message, payload)
    unknown = message.required_features & ~KNOWN_FEATURES
    if unknown:
        raise UnknownFeaturesError(unknown)
    kind = message.WhichOneof("body")
    if kind is None:
        raise CodecError("body", "no body that is known")
    if kind == "blocks":
        body: Body = BlockBatch(
            decode_batch(
                message.blocks,
                lambda: parse(pb.Frame, payload).blocks,
                is_whole=is_whole(message, payload),
            )
        )
    else:
        body = decode_body(kind, getattr(message, kind))
    frame = drafts.frame(
        _stream_id(message.worker_id, message.dp_rank),
        message.epoch,
        message.seq,
        message.ts_unix_ns,
        body,
        message.required_features,
        checksum,
    )
    _check_numbers(frame)
    return frame


_stream_id = lru_cache(maxsize=_CACHED_STREAMS)(StreamId)


@lru_cache(maxsize=_CACHED_STREAMS)
def _stream_head(worker_id: str, dp_rank: int, epoch: int) -> bytes:
    """The first fields of a frame, which are the same in all frames of an epoch."""
    return pb.Frame(worker_id=worker_id, dp_rank=dp_rank, epoch=epoch).SerializeToString()


def _check_numbers(frame: Frame) -> None:
    if frame.epoch < 1:
        raise CodecError("epoch", f"{frame.epoch} is below 1")
    if frame.seq < 1:
        raise CodecError("seq", f"{frame.seq} is below 1")
    if not frame.stream.worker_id:
        raise CodecError("worker_id", "empty")
    if isinstance(frame.body, BlockBatch):
        return
    match frame.body:
        case Heartbeat(head_seq=head_seq):
            _check_repeats("heartbeat.head_seq", head_seq, frame.seq)
        case StreamInfo():
            _check_repeats("info", 1, frame.seq)
        case Tombstone(from_seq=from_seq, to_seq=to_seq):
            _check_repeats("lost.to_seq", to_seq, frame.seq)
            if not 1 <= from_seq <= to_seq:
                raise CodecError("lost.from_seq", f"{from_seq} is not in 1..{to_seq}")
        case _:
            pass


def _check_repeats(field: str, value: int, seq: int) -> None:
    if value != seq:
        raise CodecError(field, f"{value} in a frame numbered {seq}")
