"""The checksum that ends a message: CRC-32 of every byte before it.

TCP's own checksum is 16 bits wide and misses what goes wrong in memory, in a
proxy or in a log; a hash, a token or a sequence number with one bit flipped is
as good as any other.  The field has the highest number that a tag of two bytes
holds, so that protobuf itself writes it last:

    ... every other field ... | FD 7F | CRC-32, little-endian

It is optional: a writer that leaves it out is read as before.  Whether a
stream's frames may come without is for `frame_intake.py` to say.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

from shepherd_events.codec.packed_columns import Part
from shepherd_events.errors import ChecksumError
from shepherd_events.v1 import kv_events_pb2 as pb

_FIXED32 = 5
_TAG_NUMBER = pb.Frame.CHECKSUM_FIELD_NUMBER << 3 | _FIXED32
_TAG = bytes((_TAG_NUMBER & 0x7F | 0x80, _TAG_NUMBER >> 7))
_PIECE_BYTES = 4096
SIZE_BYTES = len(_TAG) + 4
"""Of the field."""


def with_checksum(*parts: Part) -> bytes:
    """A message from its parts, and its checksum."""
    message = b"".join(parts)
    return b"".join((message, _TAG, _checksum(message).to_bytes(4, "little")))


def _checksum(message: bytes) -> int:
    """In pieces: for more than 5 KB `crc32` lets go of the interpreter, and a busy engine keeps it 5 ms."""
    whole, checksum = memoryview(message), 0
    for start in range(0, len(whole), _PIECE_BYTES):
        checksum = crc32(whole[start : start + _PIECE_BYTES], checksum)
    return checksum


def checked(message: Any, payload: bytes) -> int | None:
    """The checksum of `payload`, of which `message` was parsed; None where it has none.

    Raises:
        ChecksumError: the bytes are not those that were written.
    """
    if not message.HasField("checksum"):
        return None
    told: int = message.checksum
    found = crc32(memoryview(payload)[:-SIZE_BYTES])
    if found != told or payload[-SIZE_BYTES:] != _TAG + told.to_bytes(4, "little"):
        raise ChecksumError(f"{found:#010x}, the message was written with {told:#010x}")
    return told
