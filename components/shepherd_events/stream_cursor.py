"""Order and completeness of one publisher's stream, without any I/O.

A publisher numbers its frames 1, 2, 3, ... and, when it restarts, begins again
at 1 under a higher epoch.  A reader shows every number that it receives to the
cursor and does what the verdict says.  Nothing here waits, sends or logs.

    at     received                 verdict               at afterwards
    ----   ----------------------   -------------------   -------------
    e, n   frame e, n + 1           Deliver               e, n + 1
    e, n   frame e, m <= n          Duplicate             e, n
    e, n   frame e, m > n + 1       Gap(e, n + 1, m)      e, n
    e, n   frame d < e, any         Duplicate             e, n
    e, n   frame f > e, any         NewEpoch(f)           f, 0   (show it again)
    e, n   head  e, m <= n          None                  e, n
    e, n   head  e, m > n           Gap(e, n+1, m+1)      e, n
    e, n   head  d < e, any         None                  e, n
    e, n   head  f > e, any         NewEpoch(f)           f, 0   (show it again)

A frame may stand for a range k..m of numbers (a tombstone); it is the next one
when k <= n + 1 <= m, and the cursor is at m afterwards.  A position only grows.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a stream: everything up to and including `seq` of `epoch`."""

    epoch: int
    seq: int


@dataclass(frozen=True, slots=True)
class Deliver:
    """The frame is the next one: hand it out, once."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The frame, or the epoch it belongs to, lies behind: drop it."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Frames [first, stop) of an epoch exist and were not seen."""

    epoch: int
    first: int
    stop: int


@dataclass(frozen=True, slots=True)
class NewEpoch:
    """The publisher started anew: what its stream held before is gone."""

    epoch: int


Verdict = Deliver | Duplicate | Gap | NewEpoch


class StreamCursor:
    """The last frame taken from one stream, and the last one known to exist."""

    def __init__(self, position: Position) -> None:
        self._position = position
        self._head_seq = position.seq

    @property
    def position(self) -> Position:
        """The last frame taken; `seq` 0 before the first of an epoch."""
        return self._position

    @property
    def next_seq(self) -> int:
        """The number of the frame that is waited for."""
        return self._position.seq + 1

    @property
    def gap(self) -> Gap | None:
        """What is known to exist beyond the position, seen or not."""
        if self._head_seq <= self._position.seq:
            return None
        return Gap(self._position.epoch, self.next_seq, self._head_seq + 1)

    def observe(self, epoch: int, seq: int, *, first_seq: int | None = None) -> Verdict:
        """Judge one frame and move on if it is the next one.

        `first_seq` is the first number that the frame stands for, if not `seq`.
        """
        if epoch > self._position.epoch:
            return self._enter(epoch)
        if epoch < self._position.epoch or seq <= self._position.seq:
            return Duplicate()
        self._head_seq = max(self._head_seq, seq)
        first = seq if first_seq is None else first_seq
        if first > self.next_seq:
            return Gap(epoch, self.next_seq, first)
        self._position = Position(epoch, seq)
        return Deliver()

    def observe_head(self, epoch: int, head_seq: int) -> Gap | NewEpoch | None:
        """Judge the news that `head_seq` exists, as heartbeats and replies bring it."""
        if epoch > self._position.epoch:
            return self._enter(epoch)
        if epoch < self._position.epoch:
            return None
        self._head_seq = max(self._head_seq, head_seq)
        return self.gap

    def _enter(self, epoch: int) -> NewEpoch:
        self._position = Position(epoch, 0)
        self._head_seq = 0
        return NewEpoch(epoch)

    def __repr__(self) -> str:
        position = self._position
        return f"<StreamCursor epoch {position.epoch}, at {position.seq} of {self._head_seq}>"
