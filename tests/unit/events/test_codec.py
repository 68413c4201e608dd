from __future__ import annotations

from array import array
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_strategies import U32, U64, frames, stored_runs, tier_states
from shepherd_events.codec import (
    MAX_FRAME_BYTES,
    decode_frame,
    decode_reply,
    decode_request,
    encode_frame,
    encode_reply,
    encode_request,
)
from shepherd_events.codec.checksums import SIZE_BYTES, with_checksum
from shepherd_events.codec.packed_columns import (
    delimited_field,
    unpack_varints,
    varint,
    varint_field,
)
from shepherd_events.control import (
    ReplayReply,
    ReplayRequest,
    SnapshotReply,
    SnapshotRequest,
    Status,
)
from shepherd_events.errors import CodecError, UnknownFeaturesError
from shepherd_events.events import (
    Attribution,
    BlockBatch,
    BlocksCleared,
    BlocksRemoved,
    BlocksReused,
    BlocksStored,
    Body,
    CacheContext,
    Frame,
    Goodbye,
    Heartbeat,
    Notice,
    StreamId,
    StreamInfo,
    Tier,
    Tombstone,
)
from shepherd_events.v1 import kv_events_pb2 as pb

STREAM = StreamId("worker-1", 2)


def frame_of(body: Body, seq: int = 2) -> Frame:
    return Frame(STREAM, epoch=7, seq=seq, ts_unix_ns=9, body=body)


def stored(*hashes: int, block_size: int = 2, **changes: object) -> BlocksStored:
    tokens = array("I", range(len(hashes) * block_size))
    return replace(BlocksStored(array("Q", hashes), None, tokens, 0), **changes)  # type: ignore[arg-type]


@given(frames())
def test_every_frame_comes_back_as_it_was(frame: Frame) -> None:
    assert decode_frame(encode_frame(frame)) == frame


@given(frames())
def test_the_bytes_are_those_that_protobuf_itself_writes(frame: Frame) -> None:
    payload = encode_frame(frame)

    assert pb.Frame.FromString(payload).SerializeToString(deterministic=True) == payload


@given(
    st.one_of(
        st.builds(ReplayRequest, st.just(STREAM), U64, U64, U32),
        st.builds(SnapshotRequest, st.just(STREAM), st.binary(max_size=8), U32, U32),
    )
)
def test_every_request_comes_back_as_it_was(request: ReplayRequest | SnapshotRequest) -> None:
    assert decode_request(encode_request(request)) == request


@given(
    st.one_of(
        st.builds(
            ReplayReply,
            st.sampled_from(Status),
            *[U64] * 4,
            U32,
            st.lists(st.binary(max_size=9), max_size=3).map(tuple),
        ),
        st.builds(
            SnapshotReply,
            st.sampled_from(Status),
            U64,
            st.binary(max_size=8),
            U64,
            U32,
            st.booleans(),
            st.lists(stored_runs(), max_size=3).map(tuple),
            tier_states,
        ),
    )
)
def test_every_reply_comes_back_as_it_was(reply: ReplayReply | SnapshotReply) -> None:
    assert decode_reply(encode_reply(reply)) == reply


def test_equal_origins_and_contexts_are_written_once() -> None:
    origin = Attribution("r1", "s1", "t1", 3)
    context = CacheContext(lora_name="lora")
    batch = BlockBatch(
        (
            stored(1, origin=origin, context=context),
            stored(2, origin=replace(origin), context=replace(context)),
            BlocksRemoved(array("Q", [1]), origin=Attribution("r2")),
            stored(3),
        )
    )

    message = pb.Frame.FromString(encode_frame(frame_of(batch))).blocks

    assert list(message.attribution) == [1, 1, 2, 0]
    assert [entry.request_id for entry in message.attributions] == ["r1", "r2"]
    assert list(message.context) == [1, 1, 2]
    assert [entry.lora_name for entry in message.contexts] == ["lora", ""]


def test_columns_of_nothing_but_defaults_are_left_out() -> None:
    message = pb.Frame.FromString(encode_frame(frame_of(BlockBatch((stored(1, 2),))))).blocks

    written = [field.name for field, _ in message.ListFields()]
    assert written == [
        *("op", "run_len", "parent_hash", "block_hash", "token_id", "run_tokens", "start_block")
    ]


def batch_message() -> pb.Frame:
    """A batch of a stored, a removed and a reused run, as another writer may build it."""
    message = pb.Frame(worker_id="worker-1", dp_rank=2, epoch=7, seq=2)
    message.blocks.op.extend([1, 2, 4])
    message.blocks.run_len.extend([2, 1, 1])
    message.blocks.parent_hash.extend([0, 11])
    message.blocks.block_hash.extend([10, 11, 9, 12])
    message.blocks.token_id.extend([1, 2, 3, 4, 5, 6])
    message.blocks.start_block.extend([0, 2])
    return message


EXPECTED = (
    BlocksStored(array("Q", [10, 11]), None, array("I", [1, 2, 3, 4, 5, 6]), 0),
    BlocksRemoved(array("Q", [9])),
    BlocksReused(array("Q", [12]), 11, 2),  # type: ignore[arg-type]
)


def test_a_batch_without_run_tokens_has_equally_many_for_each_block() -> None:
    frame = decode_frame(batch_message().SerializeToString())

    assert frame.body == BlockBatch(EXPECTED)


def with_blocks_field(message: pb.Frame, field: bytes) -> bytes:
    """The frame, and more of its batch behind it: protobuf joins the two."""
    return message.SerializeToString() + delimited_field(pb.Frame.BLOCKS_FIELD_NUMBER, field)


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(varint_field(3, [1])[:1] + b"\0", id="an empty chunk"),
        pytest.param(b"", id="an empty batch"),
    ],
)
def test_a_column_that_may_be_left_out_is_not_lost_by_an_empty_chunk(rest: bytes) -> None:
    message = batch_message()
    message.blocks.tier.extend([2, 2, 3])

    frame = decode_frame(with_blocks_field(message, rest))

    assert isinstance(frame.body, BlockBatch)
    assert [event.tier for event in frame.body.events] == [Tier.HOST, Tier.HOST, Tier.DISK]


def test_a_column_that_may_be_left_out_is_read_where_it_is_not_packed() -> None:
    unpacked = b"".join(bytes((3 << 3, tier)) for tier in (2, 2, 3))

    frame = decode_frame(with_blocks_field(batch_message(), unpacked))

    assert isinstance(frame.body, BlockBatch)
    assert [event.tier for event in frame.body.events] == [Tier.HOST, Tier.HOST, Tier.DISK]


def test_what_a_newer_writer_adds_to_a_batch_changes_nothing() -> None:
    frame = decode_frame(with_blocks_field(batch_message(), delimited_field(99, b"later")))

    assert frame.body == BlockBatch(EXPECTED)


def test_a_decoded_event_is_as_frozen_as_one_that_was_made() -> None:
    body = decode_frame(batch_message().SerializeToString()).body
    assert isinstance(body, BlockBatch)

    assert [type(event) for event in body.events] == [BlocksStored, BlocksRemoved, BlocksReused]
    for event in body.events:
        with pytest.raises(FrozenInstanceError):
            event.tier = Tier.HOST  # type: ignore[misc, union-attr]


@given(st.lists(st.integers(0, 2**32 - 1)))
def test_numbers_are_packed_as_protobuf_packs_them(numbers: list[int]) -> None:
    written = varint_field(pb.BlockBatch.START_BLOCK_FIELD_NUMBER, numbers)

    assert written == pb.BlockBatch(start_block=numbers).SerializeToString()
    assert list(unpack_varints(b"".join(map(varint, numbers)))) == numbers


def test_columns_that_come_in_several_chunks_are_joined() -> None:
    whole = batch_message()
    whole.blocks.run_tokens.append(6)
    first, second = pb.Frame(), pb.Frame()
    first.CopyFrom(whole)
    del first.blocks.block_hash[1:], first.blocks.token_id[4:], first.blocks.parent_hash[1:]
    second.blocks.block_hash.extend(whole.blocks.block_hash[1:])
    second.blocks.token_id.extend(whole.blocks.token_id[4:])
    second.blocks.parent_hash.extend(whole.blocks.parent_hash[1:])

    frame = decode_frame(first.SerializeToString() + second.SerializeToString())

    assert frame.body == BlockBatch(EXPECTED)


def test_a_column_that_is_not_packed_at_all_is_read() -> None:
    message = batch_message()
    del message.blocks.block_hash[:]
    unpacked = b"".join(b"\x29" + value.to_bytes(8, "little") for value in (10, 11, 9, 12))
    blocks = message.blocks.SerializeToString() + unpacked
    message.ClearField("blocks")
    payload = message.SerializeToString() + b"\x3a" + bytes([len(blocks)]) + blocks

    assert decode_frame(payload).body == BlockBatch(EXPECTED)


def test_fields_of_a_later_minor_version_are_ignored() -> None:
    whole = encode_frame(frame_of(Goodbye("done")))
    payload = with_checksum(whole[:-SIZE_BYTES], b"\xa2\x06\x03new")

    assert decode_frame(payload) == frame_of(Goodbye("done"))


def test_a_feature_that_is_not_known_is_told_by_its_bits() -> None:
    payload = encode_frame(replace(frame_of(Goodbye("done")), required_features=0b101))

    with pytest.raises(UnknownFeaturesError) as caught:
        decode_frame(payload)
    assert caught.value.bits == 0b101


def broken(field: str, *values: int) -> bytes:
    message = batch_message()
    column = getattr(message.blocks, field)
    del column[:]
    column.extend(values)
    return message.SerializeToString()


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (b"", "body"),
        (b"\xff\xff", "message"),
        (encode_frame(frame_of(Goodbye("done")))[:-1], "message"),
        (bytes(MAX_FRAME_BYTES + 1), "message"),
        (broken("op", 1, 2, 9), "blocks.parent_hash"),
        (broken("op", 9, 2, 4), "blocks.parent_hash"),
        (broken("op", 1, 7, 4), "blocks.op"),
        (broken("op", 1, 2), "blocks.run_len"),
        (broken("op", 1, 3, 4), "blocks.run_len"),
        (broken("run_len", 2, 1), "blocks.run_len"),
        (broken("run_len", 2, 1, 2), "blocks.block_hash"),
        (broken("run_len", 2, 1, 2**32 - 1), "blocks.block_hash"),
        (broken("tier", 1, 6, 1), "blocks.tier"),
        (broken("tier", 0, 1, 1), "blocks.tier"),
        (broken("tier", 1), "blocks.tier"),
        (broken("parent_hash", 0), "blocks.parent_hash"),
        (broken("block_hash", 10, 0, 9, 12), "blocks.block_hash"),
        (broken("block_hash", 10), "blocks.block_hash"),
        (broken("token_id", 1, 2, 3), "blocks.token_id"),
        (broken("token_id"), "blocks.token_id"),
        (broken("run_tokens", 5), "blocks.run_tokens"),
        (broken("run_tokens", 4), "blocks.token_id"),
        (broken("run_tokens", 6, 6), "blocks.run_tokens"),
        (broken("start_block", 1), "blocks.start_block"),
        (broken("context", 0, 1), "blocks.context"),
        (broken("attribution", 0, 0, 1), "blocks.attribution"),
        (broken("group", 1), "blocks.group"),
    ],
)
def test_malformed_frames_name_the_field(payload: bytes, field: str) -> None:
    with pytest.raises(CodecError) as caught:
        decode_frame(payload)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.Frame(epoch=1, seq=1, goodbye=pb.Goodbye()), "worker_id"),
        (pb.Frame(worker_id="w", seq=1, goodbye=pb.Goodbye()), "epoch"),
        (pb.Frame(worker_id="w", epoch=1, goodbye=pb.Goodbye()), "seq"),
        (pb.Frame(worker_id="w", epoch=1, seq=1), "body"),
        (pb.Frame(worker_id="w", epoch=1, seq=2, info=pb.StreamInfo()), "info"),
        (
            pb.Frame(worker_id="w", epoch=1, seq=2, heartbeat=pb.Heartbeat(head_seq=3)),
            "heartbeat.head_seq",
        ),
        (
            pb.Frame(worker_id="w", epoch=1, seq=2, lost=pb.Tombstone(from_seq=1, to_seq=3)),
            "lost.to_seq",
        ),
        (
            pb.Frame(worker_id="w", epoch=1, seq=2, lost=pb.Tombstone(from_seq=3, to_seq=2)),
            "lost.from_seq",
        ),
        (
            pb.Frame(
                worker_id="w",
                epoch=1,
                seq=2,
                heartbeat=pb.Heartbeat(head_seq=2, tiers=[pb.TierState(blocks=1)]),
            ),
            "heartbeat.tiers.tier",
        ),
    ],
)
def test_headers_that_contradict_themselves_are_refused(message: pb.Frame, field: str) -> None:
    with pytest.raises(CodecError) as caught:
        decode_frame(message.SerializeToString())
    assert caught.value.field == field


def test_a_frame_of_a_body_to_come_is_refused_and_not_skipped() -> None:
    header = pb.Frame(worker_id="w", epoch=1, seq=2).SerializeToString()

    with pytest.raises(CodecError, match="body: no body that is known"):
        decode_frame(header + b"\x72\x01x")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (BlockBatch((stored(1, 0),)), "blocks.block_hash"),
        (BlockBatch((stored(1, parent_hash=0),)), "blocks.parent_hash"),
        (BlockBatch((stored(1, 2, token_ids=array("I", [1, 2, 3])),)), "blocks.run_tokens"),
        (BlockBatch((stored(1, token_ids=array("L", [1, 2])),)), "frame"),
        (BlockBatch((stored(1, block_hashes=array("I", [1])),)), "frame"),
        (BlockBatch((stored(1, start_block=-1),)), "frame"),
        (BlockBatch((stored(1, origin=Attribution("\ud800")),)), "frame"),
        (BlockBatch((stored(1, block_size=1 + MAX_FRAME_BYTES // 4),)), "message"),
        (Notice("n", "t", "s", (2**32,), (), "", "", 1), "frame"),
        (Heartbeat(head_seq=1, first_available=1), "heartbeat.head_seq"),
        (StreamInfo("m", 16, "h"), "info"),
        (Tombstone(3, 2, ""), "lost.from_seq"),
    ],
)
def test_what_no_reader_would_accept_is_not_written(body: Body, field: str) -> None:
    with pytest.raises(CodecError) as caught:
        encode_frame(frame_of(body))
    assert caught.value.field == field


def test_every_tier_and_one_tier_are_cleared_apart() -> None:
    batch = BlockBatch((BlocksCleared(), BlocksCleared(Tier.DEVICE), BlocksCleared(Tier.REMOTE)))

    assert decode_frame(encode_frame(frame_of(batch))).body == batch


def test_requests_for_what_is_not_served_are_refused() -> None:
    for wanted in ({"hashes_only": True}, {"tiers": ["TIER_HOST"]}):
        message = pb.ControlRequest(snapshot=pb.SnapshotRequest(worker_id="w", **wanted))

        with pytest.raises(CodecError, match="partial snapshots are not served"):
            decode_request(message.SerializeToString())


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.ControlReply(), "reply"),
        (pb.ControlReply(replay=pb.ReplayReply(epoch=1)), "replay.status"),
        (
            pb.ControlReply(
                snapshot=pb.SnapshotReply(
                    status="STATUS_OK", blocks=pb.BlockBatch(op=[2], run_len=[1], block_hash=[5])
                )
            ),
            "snapshot.blocks.op",
        ),
    ],
)
def test_malformed_replies_name_the_field(message: pb.ControlReply, field: str) -> None:
    with pytest.raises(CodecError) as caught:
        decode_reply(message.SerializeToString())
    assert caught.value.field == field


def test_an_empty_request_is_refused() -> None:
    with pytest.raises(CodecError, match="no request that is known"):
        decode_request(b"")
