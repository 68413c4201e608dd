"""Row 16: who reads and who writes need not be of one version.

The other side is version 1.0 as it was released (`frozen_schema.py`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st

import frozen_schema as old
from event_strategies import frames
from golden_messages import FRAMES, REPLIES, REQUESTS, golden_bytes
from shepherd_events.codec import (
    decode_frame,
    decode_reply,
    decode_request,
    encode_frame,
    encode_request,
)
from shepherd_events.codec.checksums import with_checksum
from shepherd_events.codec.packed_columns import delimited_field
from shepherd_events.events import BlockBatch, Frame, TurnCompleted
from shepherd_events.v1 import kv_events_pb2 as pb

FIXED_COLUMNS = {"parent_hash": 8, "block_hash": 8, "token_id": 4}


def meaning(message: Any) -> dict[str, Any]:
    told: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    return told


def old_class(name: str) -> Any:
    if name in FRAMES:
        return old.Frame
    return old.ControlRequest if name in REQUESTS else old.ControlReply


@pytest.mark.parametrize("name", old.GOLDEN)
def test_an_old_reader_understands_what_is_written_today(name: str) -> None:
    message = old_class(name).FromString(golden_bytes(name))

    assert meaning(message) == old.GOLDEN[name]["message"]


@pytest.mark.parametrize("name", old.GOLDEN)
def test_what_was_written_then_is_understood_today(name: str) -> None:
    payload = bytes.fromhex(old.GOLDEN[name]["hex"])

    if name in FRAMES:
        assert decode_frame(payload) == FRAMES[name]
        assert decode_frame(payload).checksum is None
    elif name in REQUESTS:
        assert decode_request(payload) == REQUESTS[name]
        assert encode_request(REQUESTS[name]) == payload
    else:
        assert decode_reply(payload) == REPLIES[name]


@given(frames())
def test_every_frame_goes_through_an_old_writer_and_back(frame: Frame) -> None:
    message = old.Frame.FromString(encode_frame(frame))
    message.DiscardUnknownFields()

    assert decode_frame(message.SerializeToString()) == frame


def test_what_version_1_0_did_not_know_of_a_turn_is_lost_on_its_readers_alone() -> None:
    turn = FRAMES["turn_completed"].body
    assert isinstance(turn, TurnCompleted)
    today = replace(turn, traceparent="00-1-2-01", turn_is_given=True)
    payload = encode_frame(replace(FRAMES["turn_completed"], body=today))

    assert decode_frame(payload).body == today
    told = meaning(old.Frame.FromString(payload))["turn"]
    assert told == old.GOLDEN["turn_completed"]["message"]["turn"]


@given(frames(), st.data())
def test_columns_in_any_number_of_chunks_are_joined(frame: Frame, data: st.DataObject) -> None:
    if not isinstance(frame.body, BlockBatch):
        return
    message = pb.Frame.FromString(encode_frame(frame))
    chunks = []
    for name, size in FIXED_COLUMNS.items():
        values = list(getattr(message.blocks, name))
        number = pb.BlockBatch.DESCRIPTOR.fields_by_name[name].number
        cuts = data.draw(st.lists(st.integers(0, len(values)), max_size=3).map(sorted))
        for start, stop in zip([0, *cuts], [*cuts, len(values)], strict=True):
            packed = b"".join(value.to_bytes(size, "little") for value in values[start:stop])
            chunks.append(delimited_field(number, packed))
        message.blocks.ClearField(name)
    blocks = message.blocks.SerializeToString() + b"".join(chunks)
    message.ClearField("blocks")
    message.ClearField("checksum")
    payload = with_checksum(
        message.SerializeToString(), delimited_field(pb.Frame.BLOCKS_FIELD_NUMBER, blocks)
    )

    assert decode_frame(payload) == frame
