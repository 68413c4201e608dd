"""Whatever arrives, the decoders answer with a value or a `CodecError`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_strategies import frames
from shepherd_events.codec import (
    decode_frame,
    decode_reply,
    decode_request,
    encode_frame,
    encode_reply,
)
from shepherd_events.codec.checksums import SIZE_BYTES
from shepherd_events.control import ReplayReply, SnapshotReply, Status
from shepherd_events.errors import CodecError
from shepherd_events.events import BlockBatch, BlocksStored, Frame


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """A frame or snapshot with bytes changed, removed, repeated or inserted.

    Mostly without a checksum, which would keep the decoders from looking further.
    """
    frame = draw(frames())
    payload = bytearray(encode_frame(frame))
    if isinstance(frame.body, BlockBatch) and draw(st.booleans()):
        runs = tuple(event for event in frame.body.events if isinstance(event, BlocksStored))
        payload = bytearray(encode_reply(SnapshotReply(Status.OK, frame.epoch, blocks=runs)))
    if draw(st.integers(0, 3)):
        del payload[-SIZE_BYTES:]
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(payload)))
        stop = draw(st.integers(start, min(start + 8, len(payload))))
        payload[start:stop] = draw(st.binary(max_size=8)) * draw(st.integers(1, 2))
    return bytes(payload)


@pytest.mark.parametrize("decode", [decode_frame, decode_reply, decode_request])
@given(payload=mutations() | st.binary(max_size=64))
def test_mutated_bytes_are_decoded_or_refused(
    decode: Callable[[bytes], object], payload: bytes
) -> None:
    with suppress(CodecError):
        decode(payload)


@given(mutations())
def test_what_is_decoded_from_mutated_bytes_can_be_written_and_read_again(payload: bytes) -> None:
    try:
        frame: Frame = decode_frame(payload)
    except CodecError:
        return

    assert decode_frame(encode_frame(frame)) == frame


@given(frames(), st.data())
def test_no_proper_beginning_of_a_frame_is_a_frame(frame: Frame, data: st.DataObject) -> None:
    payload = encode_frame(frame)
    cut = data.draw(st.integers(0, len(payload) - 1))

    if cut == len(payload) - SIZE_BYTES:
        assert decode_frame(payload[:cut]) == frame, "whole but for its checksum"
        return
    with pytest.raises(CodecError):
        decode_frame(payload[:cut])


@given(st.lists(st.binary(max_size=9), max_size=3))
def test_frames_of_a_replay_are_not_looked_into(payloads: list[bytes]) -> None:
    reply = ReplayReply(Status.OK, 7, 1, 2, 3, 0, tuple(payloads))

    assert decode_reply(encode_reply(reply)) == reply
