"""The bytes of version 1, for ever: `tests/golden/kv_frames.json`.

Each entry has the bytes in hex and what they mean in protobuf's own JSON, so
that implementations in other languages can be held to the same file.
"""

from __future__ import annotations

import pytest
from google.protobuf.json_format import ParseDict

from golden_messages import FRAMES, GOLDEN, REPLIES, REQUESTS, golden_bytes
from shepherd_events.codec import (
    decode_frame,
    decode_reply,
    decode_request,
    encode_frame,
    encode_reply,
    encode_request,
)
from shepherd_events.v1 import kv_events_pb2 as pb


def test_the_golden_file_has_these_messages_and_no_others() -> None:
    assert sorted(GOLDEN) == sorted({**FRAMES, **REQUESTS, **REPLIES})


@pytest.mark.parametrize("name", FRAMES)
def test_golden_frames_are_written_and_read_unchanged(name: str) -> None:
    assert encode_frame(FRAMES[name]) == golden_bytes(name)
    assert decode_frame(golden_bytes(name)) == FRAMES[name]


@pytest.mark.parametrize("name", REQUESTS)
def test_golden_requests_are_written_and_read_unchanged(name: str) -> None:
    assert encode_request(REQUESTS[name]) == golden_bytes(name)
    assert decode_request(golden_bytes(name)) == REQUESTS[name]


@pytest.mark.parametrize("name", REPLIES)
def test_golden_replies_are_written_and_read_unchanged(name: str) -> None:
    assert encode_reply(REPLIES[name]) == golden_bytes(name)
    assert decode_reply(golden_bytes(name)) == REPLIES[name]


@pytest.mark.parametrize("name", {**FRAMES, **REQUESTS, **REPLIES})
def test_the_meaning_of_golden_messages_gives_their_bytes(name: str) -> None:
    message_class = (
        pb.Frame if name in FRAMES else pb.ControlRequest if name in REQUESTS else pb.ControlReply
    )

    message = ParseDict(GOLDEN[name]["message"], message_class())

    assert message.SerializeToString(deterministic=True) == golden_bytes(name)
