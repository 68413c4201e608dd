"""What a reader asks of a publisher, and what it is answered.

Requests are independent of one another: a reader that lost an answer asks
again.  Replays and snapshots are paged, so that no answer is larger than the
reader asked for, except for a single frame or run that is larger by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from shepherd_events.events import BlocksStored, StreamId, TierState


class Status(IntEnum):
    """How a request ended; the numbers are those on the wire."""

    OK = 1
    COMPACTED = 2
    """What was asked for is not kept any more: take a new snapshot."""
    WRONG_EPOCH = 3
    AHEAD = 4
    """`from_seq` lies beyond the head."""
    BUSY = 5
    """Ask again after `retry_after_ms`."""
    DENIED = 6
    UNSUPPORTED = 7
    """The publisher does not understand the request."""


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """Send the frames from `from_seq` on, as many as fit `max_bytes`, at least one."""

    stream: StreamId
    epoch: int
    from_seq: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class ReplayReply:
    """A page of frames; complete when `next_seq` lies beyond `head_seq`."""

    status: Status
    epoch: int
    """The publisher's own, whatever the request said."""
    first_available: int = 0
    next_seq: int = 0
    """Where the next page starts."""
    head_seq: int = 0
    """The last frame that a replay can bring now."""
    retry_after_ms: int = 0
    frames: tuple[bytes, ...] = ()
    """The original bytes, in order."""


@dataclass(frozen=True, slots=True)
class SnapshotRequest:
    """Send what is resident, one chunk at a time."""

    stream: StreamId
    snapshot_id: bytes
    """Empty to start one; then that of the first reply."""
    chunk: int
    """0, 1, 2, ...; the same chunk may be asked for again until the next one is."""
    max_bytes: int


@dataclass(frozen=True, slots=True)
class SnapshotReply:
    """One chunk of what was resident when frame `as_of_seq` was the head."""

    status: Status
    epoch: int
    snapshot_id: bytes = b""
    as_of_seq: int = 0
    chunk: int = 0
    last: bool = False
    blocks: tuple[BlocksStored, ...] = ()
    """Parents before children, also across chunks."""
    tiers: tuple[TierState, ...] = ()
    """On the last chunk: the digest of the whole snapshot."""


ControlRequest = ReplayRequest | SnapshotRequest
ControlReply = ReplayReply | SnapshotReply
