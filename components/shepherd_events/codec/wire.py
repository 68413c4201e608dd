"""How all messages are parsed, limited and refused, and the views they are read through."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from shepherd_events.codec.columns import PACKED_COLUMNS
from shepherd_events.codec.packed_columns import view_classes
from shepherd_events.control import Status
from shepherd_events.errors import CodecError
from shepherd_events.events import Tier
from shepherd_events.v1 import kv_events_pb2 as pb

MAX_FRAME_BYTES = 4 << 20
"""No frame is larger; they are usually below 64 KiB."""

MAX_MESSAGE_BYTES = 8 << 20
"""No message is larger: a reply has room for the largest frame."""

FrameView, ControlReplyView = view_classes(
    pb.DESCRIPTOR,
    "BlockBatch",
    columns=PACKED_COLUMNS,
    wanted=("Frame", "ControlReply"),
)

_EnumT = TypeVar("_EnumT", Tier, Status)


def enum_of(field: str, enum: type[_EnumT], number: int) -> _EnumT:
    """The member that `number` stands for.

    Raises:
        CodecError: none does.
    """
    try:
        return enum(number)
    except ValueError:
        raise CodecError(field, f"{number} is not known") from None


def parse(message_class: Any, payload: bytes, limit_bytes: int = MAX_MESSAGE_BYTES) -> Any:
    """The message that `payload` holds.

    Raises:
        CodecError: it is too large or is not protobuf.
    """
    sized(payload, limit_bytes)
    try:
        return message_class.FromString(payload)
    except DecodeError as error:
        raise CodecError("message", str(error) or "not protobuf") from error


def sized(payload: bytes, limit_bytes: int = MAX_MESSAGE_BYTES) -> bytes:
    """`payload` itself.

    Raises:
        CodecError: it is too large.
    """
    if len(payload) > limit_bytes:
        raise CodecError("message", f"{len(payload)} bytes, the limit is {limit_bytes}")
    return payload
