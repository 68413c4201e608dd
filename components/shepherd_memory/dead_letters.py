"""Completed requests that could not be applied: what is kept of them, and how it is read again.

A letter must be readable when the blocks are long gone: its payload is the frame
with all tokens that were known of the sequence in its tail.  `last_block_hash` is
kept only where these are the whole sequence, so that its blocks can be found
again while they are there.  Frames of blocks are no letters: an index that lacks
one is found out by the next heartbeat's digest, and healed by a snapshot.
"""

from __future__ import annotations

from array import array
from dataclasses import replace

from shepherd_events.codec import decode_frame, encode_frame
from shepherd_events.errors import KvEventsError
from shepherd_events.events import Frame, TurnCompleted
from shepherd_memory.archive.records import DeadLetter
from shepherd_memory.block_index import Chain

_MAX_REASON = 500

NO_BLOCKS = Chain(array("Q"), array("I"), 0, complete=True)


def letter_of(frame: Frame, body: TurnCompleted, chain: Chain, reason: str, now: int) -> DeadLetter:
    """What is kept of a request whose known sequence is `chain` and then the frame's tail."""
    tokens = chain.token_ids + body.tail_token_ids
    last = body.last_block_hash if is_whole(body, chain) else None
    try:
        payload = encode_frame(
            replace(frame, body=replace(body, tail_token_ids=tokens, last_block_hash=last))
        )
    except (KvEventsError, ValueError, OverflowError):
        payload = b""
    return DeadLetter(
        name=f"{frame.stream} {frame.epoch}:{frame.seq}",
        session=body.origin.session_id,
        reason=reason,
        payload=payload,
        created_unix_ns=now,
    )


def frame_of(letter: DeadLetter) -> tuple[Frame, TurnCompleted]:
    """The frame of a letter.

    Raises:
        ValueError: it is no completed request, or too large to have been kept.
        CodecError: it cannot be read.
    """
    frame = decode_frame(letter.payload)
    if not isinstance(frame.body, TurnCompleted):
        raise ValueError(f"dead letter {letter.name!r} is no completed request")  # noqa: TRY004 - a wrong letter, not a wrong type of ours
    return frame, frame.body


def is_whole(body: TurnCompleted, chain: Chain) -> bool:
    """Whether a chain is all that a request's tail continues."""
    return chain.complete and len(chain.block_hashes) == body.num_full_blocks


def reason_of(error: Exception) -> str:
    """What is told of an error, short enough for a list."""
    return f"{type(error).__name__}: {error}"[:_MAX_REASON]
