"""How all messages are parsed, limited and refused, and the views they are read through."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from shepherd_events.codec.packed_columns import view_classes
from shepherd_events.control import Status
from shepherd_events.errors import CodecError
from shepherd_events.events import Tier
from shepherd_events.v1 import kv_events_pb2 as pb

MAX_MESSAGE_BYTES = 8 << 20
"""Neither written nor read beyond this size; frames are usually below 64 KiB."""

FrameView, ControlReplyView = view_classes(
    pb.DESCRIPTOR,
    "BlockBatch",
    columns=("parent_hash", "block_hash", "token_id"),
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


def parse(message_class: Any, payload: bytes) -> Any:
    """The message that `payload` holds.

    Raises:
        CodecError: it is too large or is not protobuf.
    """
    sized(payload)
    try:
        return message_class.FromString(payload)
    except DecodeError as error:
        raise CodecError("message", str(error) or "not protobuf") from error


def sized(payload: bytes) -> bytes:
    """`payload` itself.

    Raises:
        CodecError: it is too large.
    """
    if len(payload) > MAX_MESSAGE_BYTES:
        raise CodecError("message", f"{len(payload)} bytes, the limit is {MAX_MESSAGE_BYTES}")
    return payload
