"""Dataclasses to bytes and back; the only module that knows the generated code.

The fixed-width columns of a batch are written from the bytes of their arrays,
as one packed chunk each, and read with a view of the schema in which those
columns are `bytes` (`packed_columns.py`).  Where a column came in several chunks,
its length contradicts the run lengths, and the batch is read once more with the
schema as published.  What is written is byte for byte what protobuf itself would
write.

A message is decoded entirely or not at all: `CodecError` names the field.
"""

from shepherd_events.codec.control_messages import (
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)
from shepherd_events.codec.frames import KNOWN_FEATURES, decode_frame, encode_frame
from shepherd_events.codec.wire import MAX_FRAME_BYTES, MAX_MESSAGE_BYTES

__all__ = [
    "KNOWN_FEATURES",
    "MAX_FRAME_BYTES",
    "MAX_MESSAGE_BYTES",
    "decode_frame",
    "decode_reply",
    "decode_request",
    "encode_frame",
    "encode_reply",
    "encode_request",
]
