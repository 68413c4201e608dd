"""The bodies of frames, each from and to its message."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from shepherd_events.codec.batch_writer import batch_field
from shepherd_events.codec.packed_columns import Part, delimited_field
from shepherd_events.codec.shared_messages import (
    attribution_message,
    attribution_of,
    context_message,
    context_of,
    sealed_message,
    sealed_of,
    tier_state_messages,
    tier_states,
)
from shepherd_events.codec.wire import enum_of
from shepherd_events.events import (
    BlockBatch,
    BlockHash,
    Body,
    Goodbye,
    Heartbeat,
    Notice,
    StreamInfo,
    Tier,
    Tombstone,
    TurnCompleted,
)
from shepherd_events.v1 import kv_events_pb2 as pb
from shepherd_events.v1 import notices_pb2, turns_pb2

_BLOCKS = pb.Frame.BLOCKS_FIELD_NUMBER


def encode_body(body: Body) -> list[Part]:
    """The parts of the body's field in `Frame`.

    Raises:
        CodecError: an event that no reader would accept.
    """
    if isinstance(body, BlockBatch):
        return batch_field(_BLOCKS, body.events)
    number, to_message = _WRITERS[type(body)]
    return [delimited_field(number, to_message(body).SerializeToString())]


def decode_body(kind: str, message: Any) -> Body:
    """The body that `message`, the field `kind` of a frame, holds; block batches excepted.

    Raises:
        CodecError: a number that is not known.
    """
    return _READERS[kind](message)


def _turn_message(turn: TurnCompleted) -> turns_pb2.TurnCompleted:
    return turns_pb2.TurnCompleted(
        origin=attribution_message(turn.origin),
        context=context_message(turn.context),
        parent_session_id=turn.parent_session_id,
        session_final=turn.session_final,
        prompt_tokens=turn.prompt_tokens,
        cached_tokens=turn.cached_tokens,
        generated_tokens=turn.generated_tokens,
        last_block_hash=turn.last_block_hash or 0,
        num_full_blocks=turn.num_full_blocks,
        tail_token_id=turn.tail_token_ids,
        finish_reason=turn.finish_reason,
        started_unix_ns=turn.started_unix_ns,
        sealed_tail=sealed_message(turn.sealed_tail),
        withheld=turn.withheld,
        traceparent=turn.traceparent,
        turn_is_given=turn.turn_is_given,
    )


def _turn(message: Any) -> TurnCompleted:
    last = message.last_block_hash
    return TurnCompleted(
        origin=attribution_of(message.origin),
        prompt_tokens=message.prompt_tokens,
        cached_tokens=message.cached_tokens,
        generated_tokens=message.generated_tokens,
        last_block_hash=BlockHash(last) if last else None,
        num_full_blocks=message.num_full_blocks,
        tail_token_ids=array("I", message.tail_token_id),
        finish_reason=message.finish_reason,
        started_unix_ns=message.started_unix_ns,
        context=context_of(message.context),
        parent_session_id=message.parent_session_id,
        session_final=message.session_final,
        sealed_tail=sealed_of(message.sealed_tail) if message.HasField("sealed_tail") else None,
        withheld=message.withheld,
        traceparent=message.traceparent,
        turn_is_given=message.turn_is_given,
    )


def _notice_message(notice: Notice) -> notices_pb2.Notice:
    return notices_pb2.Notice(
        notice_id=notice.notice_id,
        tenant=notice.tenant,
        session_id=notice.session_id,
        turns=notice.turns,
        archive_ids=notice.archive_ids,
        topic=notice.topic,
        text=notice.text,
        created_unix_ns=notice.created_unix_ns,
    )


def _notice(message: Any) -> Notice:
    return Notice(
        notice_id=message.notice_id,
        tenant=message.tenant,
        session_id=message.session_id,
        turns=tuple(message.turns),
        archive_ids=tuple(message.archive_ids),
        topic=message.topic,
        text=message.text,
        created_unix_ns=message.created_unix_ns,
    )


def _heartbeat_message(heartbeat: Heartbeat) -> pb.Heartbeat:
    return pb.Heartbeat(
        head_seq=heartbeat.head_seq,
        first_available=heartbeat.first_available,
        tiers=tier_state_messages(heartbeat.tiers),
        dropped_total=heartbeat.dropped_total,
        control_endpoint=heartbeat.control,
    )


def _heartbeat(message: Any) -> Heartbeat:
    return Heartbeat(
        head_seq=message.head_seq,
        first_available=message.first_available,
        tiers=tier_states("heartbeat.tiers", message.tiers),
        dropped_total=message.dropped_total,
        control=message.control_endpoint,
    )


def _info_message(info: StreamInfo) -> pb.StreamInfo:
    return pb.StreamInfo(
        schema_minor=info.schema_minor,
        model=info.model,
        block_size=info.block_size,
        hash_algo=info.hash_algo,
        hash_seed_id=info.hash_seed_id,
        dp_size=info.dp_size,
        replay_capacity=info.replay_capacity,
        replay_endpoint=info.replay_endpoint,
        tiers=[f"TIER_{tier.name}" for tier in info.tiers],
        tokens_included=info.tokens_included,
        previous_epoch=info.previous_epoch,
        previous_head_seq=info.previous_head_seq,
        heartbeat_ms=info.heartbeat_ms,
        engine=info.engine,
        engine_version=info.engine_version,
        privacy="" if info.privacy == "full" else info.privacy,
    )


def _info(message: Any) -> StreamInfo:
    return StreamInfo(
        model=message.model,
        block_size=message.block_size,
        hash_algo=message.hash_algo,
        hash_seed_id=message.hash_seed_id,
        dp_size=message.dp_size,
        replay_capacity=message.replay_capacity,
        replay_endpoint=message.replay_endpoint,
        tiers=tuple(enum_of("info.tiers", Tier, tier) for tier in message.tiers),
        tokens_included=message.tokens_included,
        previous_epoch=message.previous_epoch,
        previous_head_seq=message.previous_head_seq,
        heartbeat_ms=message.heartbeat_ms,
        engine=message.engine,
        engine_version=message.engine_version,
        schema_minor=message.schema_minor,
        privacy=message.privacy or "full",
    )


_WRITERS: dict[type[Body], tuple[int, Callable[[Any], Message]]] = {
    TurnCompleted: (pb.Frame.TURN_FIELD_NUMBER, _turn_message),
    Notice: (pb.Frame.NOTICE_FIELD_NUMBER, _notice_message),
    Heartbeat: (pb.Frame.HEARTBEAT_FIELD_NUMBER, _heartbeat_message),
    StreamInfo: (pb.Frame.INFO_FIELD_NUMBER, _info_message),
    Tombstone: (
        pb.Frame.LOST_FIELD_NUMBER,
        lambda body: pb.Tombstone(from_seq=body.from_seq, to_seq=body.to_seq, reason=body.reason),
    ),
    Goodbye: (pb.Frame.GOODBYE_FIELD_NUMBER, lambda body: pb.Goodbye(reason=body.reason)),
}

_READERS: dict[str, Callable[[Any], Body]] = {
    "turn": _turn,
    "notice": _notice,
    "heartbeat": _heartbeat,
    "info": _info,
    "lost": lambda message: Tombstone(message.from_seq, message.to_seq, message.reason),
    "goodbye": lambda message: Goodbye(message.reason),
}
