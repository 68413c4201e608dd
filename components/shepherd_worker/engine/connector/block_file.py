"""One KV block as a file: a header, then the record.

    offset  size  field (little-endian)
    ------  ----  --------------------------------------------------------
         0     4  magic "SKVB"
         4     4  version of this format
         8    32  fingerprint of model, type and layout
        40     8  block hash
        48     8  length of the record
        56     8  XXH3-64 over the header before this field and the record

Knows bytes alone, no files.  Whoever reads a block knows what it must be, so the
whole header but its checksum is compared, not interpreted.
"""

from __future__ import annotations

import struct

import xxhash

from shepherd_events.events import BlockHash

VERSION = 1
_MAGIC = b"SKVB"
_HEAD = struct.Struct("<4sI32sQQ")
_CHECKSUM = struct.Struct("<Q")
HEADER_BYTES = _HEAD.size + _CHECKSUM.size


def encode_header(
    fingerprint: bytes, block_hash: BlockHash, record: bytes | memoryview | bytearray
) -> bytes:
    """What goes before a record; `fingerprint` has 32 bytes."""
    head = _HEAD.pack(_MAGIC, VERSION, fingerprint, block_hash, len(record))
    return head + _CHECKSUM.pack(_checksum(head, record))


def is_header_of(
    header: bytes | memoryview,
    fingerprint: bytes,
    block_hash: BlockHash,
    record: bytes | memoryview | bytearray,
) -> bool:
    """Whether a header is that of exactly this record of this block."""
    return bytes(header) == encode_header(fingerprint, block_hash, record)


def _checksum(head: bytes, record: bytes | memoryview | bytearray) -> int:
    digest = xxhash.xxh3_64(head)
    digest.update(record)
    return digest.intdigest()
