"""What a reader of a stream is handed, told, and may choose."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from shepherd_events.events import BlocksStored, Frame, TierState


class StreamState(StrEnum):
    """How much what was handed out says about the publisher's cache now."""

    LIVE = "live"
    """Everything that is known to exist was handed out."""
    CATCHING_UP = "catching_up"
    """Some of it was not yet, and is on its way."""
    STALE = "stale"
    """Something is lost, or the publisher cannot be reached."""


class ResetReason(StrEnum):
    """Why what a stream held has to be forgotten."""

    RESTARTED = "restarted"
    """The publisher started anew, with an empty cache."""
    COMPACTED = "compacted"
    """The publisher keeps the frames that were missed no longer."""
    LOST = "lost"
    """The publisher dropped frames."""
    UNDECODABLE = "undecodable"
    """A frame arrived that this reader does not understand, also when asked for again."""
    DIVERGED = "diverged"
    """What the reader holds has another digest than what the publisher holds."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Forget everything this stream held and hold `blocks` instead."""

    epoch: int
    as_of_seq: int
    blocks: tuple[BlocksStored, ...]
    """Parents before children."""
    reason: ResetReason


Item = Frame | Reset


class Residents(Protocol):
    """What a consumer holds of a stream, for comparison with the publisher's digests."""

    def follow(self, item: Item) -> None:
        """An item is being handed out."""
        ...

    def digest(self) -> tuple[TierState, ...] | None:
        """Of all items so far; None where they are not applied yet, or it cannot be told."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a reader waits for what."""

    silence_s: float = 3.0
    """Without any frame for so long, the publisher is doubted; three heartbeats or more."""
    request_s: float = 2.0
    first_retry_s: float = 0.1
    last_retry_s: float = 5.0
    """Waits double from the first to this one, each shortened by chance down to half."""
    between_snapshots_s: float = 0.25
    """A publisher that keeps losing frames is not asked for snapshots more often."""
    page_bytes: int = 512 << 10
    """Size of one reply, and about what a reader holds in memory while it catches up."""


@dataclass(frozen=True, slots=True)
class SubscriptionCounters:
    """Totals since the subscription began."""

    frames: int = 0
    """Handed out."""
    gaps: int = 0
    replays: int = 0
    """Pages received."""
    snapshots: int = 0
    duplicates: int = 0
    decode_errors: int = 0
    """What arrived and was no frame of the stream, or not whole."""
    corrupt: int = 0
    """Those of them that had another checksum than they should: bits flipped on the way."""
    digest_checks: int = 0
    """Heartbeats that were compared with what the reader holds."""
    digest_mismatches: int = 0
    failed_requests: int = 0
    """Not answered, refused, or answered with nonsense."""
