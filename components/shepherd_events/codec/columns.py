"""What block events and the columns of a batch have in common.

Run i applies `op[i]` to the next `run_len[i]` hashes; columns that concern only
some runs have one entry per such run.  Hashes and tokens of all events lie
behind each other in one column each, so that a batch is written and read without
one Python object per token.

    per run                    op run_len tier? attribution? group?
    per STORED or REUSED run   parent_hash start_block context?
    per STORED run             run_tokens?

A column with a question mark may be left out where all of it is the default.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from enum import IntEnum

from shepherd_events.errors import CodecError

EVERY_TIER = 0
"""In the tier column of a CLEARED run."""

_ZERO_HASH = bytes(8)

PACKED_COLUMNS = (
    "op",
    "run_len",
    "tier",
    "parent_hash",
    "block_hash",
    "token_id",
    "run_tokens",
    "start_block",
    "context",
    "attribution",
    "group",
)


class Op(IntEnum):
    """What a run does; the numbers are those on the wire."""

    STORED = 1
    REMOVED = 2
    CLEARED = 3
    REUSED = 4


def check_tokens(run_tokens: Iterable[int], run_len: Iterable[int]) -> None:
    """Let a run of no blocks, or of blocks of different sizes, not pass.

    Raises:
        CodecError: there is one.
    """
    for num_tokens, num_blocks in set(zip(run_tokens, run_len, strict=True)):
        if num_tokens and (num_blocks == 0 or num_tokens % num_blocks):
            raise CodecError(
                "blocks.run_tokens", f"{num_tokens} tokens cannot fill {num_blocks} blocks alike"
            )


def check_hashes(column: bytes) -> None:
    """Let no hash that is 0 pass; eight zero bytes are looked for first, which is quick.

    Raises:
        CodecError: there is one.
    """
    if _ZERO_HASH in column and 0 in array("Q", column):
        raise CodecError("blocks.block_hash", "0 is never a hash")
