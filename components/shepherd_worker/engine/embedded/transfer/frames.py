"""What travels between two workers: a header and a body.

    header    magic "SKV2", kind, length of the body, checksum, fingerprint
    checksum  XXH3-64 over the header without it, then over the body
    bodies    little-endian; see the dataclasses below

The fingerprint says what the records mean, for KV blocks the model and their
layout.  Whoever receives a frame checks magic, kind, fingerprint and length
before it makes room for the body, and the checksum before it uses it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

import xxhash

from shepherd_worker.engine.embedded.transfer.errors import TransferError

FRAME_BYTES = 4 << 20
"""Records travel in frames of at most this size, unless one alone is larger."""
MAX_CONTROL_BYTES = 1 << 20
"""Every other body is at most this long."""
MAGIC = b"SKV2"
_FIELDS = struct.Struct("<4sII32s")
_CHECKSUM = struct.Struct("<Q")
HEADER_BYTES = _FIELDS.size + _CHECKSUM.size
_REQUEST = struct.Struct("<16sQQ")
_REGION = struct.Struct("<Q")


class Kind(IntEnum):
    """What a body is."""

    REQUEST = 1
    """Send me these records (`Request`)."""
    RECORDS = 2
    REFUSED = 3
    """Why not, in UTF-8."""
    HELLO = 4
    """A client's nonce."""
    CHALLENGE = 5
    """A server's nonce."""
    PROOF = 6
    WELCOME = 7
    """The server's proof."""
    ATTACH = 8
    """Lend me the memory that your records lie in."""
    REGION = 9
    """Its size (`pack_size`); its descriptor travels beside it."""
    CLAIM = 10
    """I will copy these records myself (`Request`)."""
    EXTENTS = 11
    """Where each of them begins in the region, 8 bytes each."""
    COPY = 12
    """As EXTENTS, in a region of its own, whose descriptor travels beside it."""
    DONE = 13
    """I have copied them."""
    RELEASED = 14
    """The lease held until now, so the copy is whole."""
    REMOTE_CLAIM = 15
    """As CLAIM, and the client's NIXL agent."""
    REMOTE_EXTENTS = 16
    """The server's NIXL agent, then addresses, 8 bytes each."""


@dataclass(frozen=True, slots=True)
class Header:
    """A frame without its body."""

    kind: Kind
    num_bytes: int
    fingerprint: bytes
    """32 bytes."""
    checksum: int

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Self:
        """Read `HEADER_BYTES`.

        Raises:
            TransferError: this is no frame of ours.
        """
        magic, kind, num_bytes, fingerprint = _FIELDS.unpack_from(data)
        (checksum,) = _CHECKSUM.unpack_from(data, _FIELDS.size)
        if magic != MAGIC:
            raise TransferError(f"expected a frame, got {magic!r}")
        if kind not in Kind.__members__.values():
            raise TransferError(f"expected a kind of frame that is known, got {kind}")
        return cls(Kind(kind), num_bytes, fingerprint, checksum)

    def checksum_of_body(self) -> Checksum:
        """What is to be told of every part of the body."""
        fields = _FIELDS.pack(MAGIC, self.kind, self.num_bytes, self.fingerprint)
        return Checksum(xxhash.xxh3_64(fields), self.checksum)


@dataclass(frozen=True, slots=True)
class Checksum:
    """Of a frame whose body arrives in parts."""

    digest: xxhash.xxh3_64
    expected: int

    def update(self, part: bytes | memoryview) -> None:
        """Take in the next part."""
        self.digest.update(part)

    def check(self) -> None:
        """Compare what arrived with what was sent.

        Raises:
            TransferError: it is something else.
        """
        if self.digest.intdigest() != self.expected:
            raise TransferError("the checksum of a frame is wrong")


def encode_header(kind: Kind, fingerprint: bytes, body: Iterable[bytes | memoryview]) -> bytes:
    """The header of a frame whose body is the buffers of `body`, one after the other."""
    parts = list(body)
    fields = _FIELDS.pack(MAGIC, kind, sum(len(part) for part in parts), fingerprint)
    return fields + _CHECKSUM.pack(_checksum(fields, parts))


@dataclass(frozen=True, slots=True)
class Request:
    """The body of REQUEST and CLAIM: records [first, first + count) of a lease."""

    transfer_id: bytes
    """16 bytes."""
    first: int
    count: int

    def encode(self) -> bytes:
        """As bytes."""
        return _REQUEST.pack(self.transfer_id, self.first, self.count)

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Read the beginning of a body.

        Raises:
            TransferError: it is too short.
        """
        if len(body) < _REQUEST.size:
            raise TransferError(f"a request has {_REQUEST.size} bytes, got {len(body)}")
        return cls(*_REQUEST.unpack_from(body))


REQUEST_BYTES = _REQUEST.size
REGION_BYTES = _REGION.size


def pack_size(num_bytes: int) -> bytes:
    """The body of REGION."""
    return _REGION.pack(num_bytes)


def unpack_size(body: bytes) -> int:
    """Read what `pack_size` wrote; `body` has `REGION_BYTES`."""
    (num_bytes,) = _REGION.unpack(body)
    return int(num_bytes)


def _checksum(fields: bytes, parts: Iterable[bytes | memoryview]) -> int:
    digest = xxhash.xxh3_64(fields)
    for part in parts:
        digest.update(part)
    return digest.intdigest()
