"""What a publisher in vLLM's form counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MsgpackCounters:
    """Totals since the start."""

    messages: int
    events: int
    dropped_events: int
    """Told while the queue was full; what is resident was told anew."""
    withheld_events: int
    """Blocks under a salt that is not known here."""
    replays: int
    unfinished_replays: int
    """Given up because the reader took nothing."""
    send_failures: int
