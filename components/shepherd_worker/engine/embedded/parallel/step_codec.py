"""A step as bytes, for the processes that compute it together.

    new blocks [n, ids...] | segments: [start, logits, tokens, blocks, token ids..., block ids...]

All numbers are 32 bits, of this machine's own order: the other process runs beside
this one.  Images do not travel.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from shepherd_events.events import Tier
from shepherd_worker.engine.embedded.cache.block_pool import BlockCopy
from shepherd_worker.engine.embedded.layout import Segment

_SEGMENT_NUMBERS = 4
_COPY_NUMBERS = 3


def encode_step(segments: Sequence[Segment], new_block_ids: Sequence[int]) -> bytes:
    """What `decode_step` takes."""
    numbers = array("I", (len(new_block_ids), *new_block_ids))
    for segment in segments:
        sizes = (len(segment.token_ids), len(segment.block_ids))
        numbers.extend((segment.start, segment.num_logits, *sizes))
        numbers += segment.token_ids
        numbers.extend(segment.block_ids)
    return numbers.tobytes()


def decode_step(data: bytes) -> tuple[list[Segment], list[int]]:
    """The segments and the new blocks' ids."""
    numbers = array("I", data)
    at = 1 + numbers[0]
    new_block_ids = numbers[1:at].tolist()
    segments = []
    while at < len(numbers):
        start, num_logits, num_tokens, num_blocks = numbers[at : at + _SEGMENT_NUMBERS]
        tokens = at + _SEGMENT_NUMBERS
        blocks = tokens + num_tokens
        at = blocks + num_blocks
        segments.append(
            Segment(numbers[tokens:blocks], start, numbers[blocks:at].tolist(), num_logits)
        )
    return segments, new_block_ids


def encode_copies(copies: Sequence[BlockCopy]) -> bytes:
    """What `decode_copies` takes."""
    rows = ((copy.to is Tier.HOST, copy.source, copy.target) for copy in copies)
    return array("I", (number for row in rows for number in row)).tobytes()


def decode_copies(data: bytes) -> list[BlockCopy]:
    """In their order."""
    numbers = array("I", data)
    return [
        BlockCopy(Tier.HOST if to_host else Tier.DEVICE, source, target)
        for to_host, source, target in zip(
            *(numbers[i::_COPY_NUMBERS] for i in range(_COPY_NUMBERS)), strict=True
        )
    ]
