"""Frames on their way into a durable log: told, sent, not yet acknowledged.

Knows no broker.  Frames are stored in the order in which they were told; each
says which frame the log must end with for it to be stored, so that a frame that
got lost on the way leaves no hole behind it and a second writer is noticed.

    acknowledged | in flight | to be sent
    -------------+-----------+-----------
                 ^ oldest    ^ next

Conservation: every frame that `add` took is in the window until it is
acknowledged.  Not safe for threads.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice


@dataclass(frozen=True, slots=True)
class LoggedFrame:
    """One frame for the log."""

    subject: str
    payload: bytes
    frame_id: str
    """Unique within the log."""
    told_ns: int = 0
    """When it began to wait, by the clock of whoever told it."""


@dataclass(frozen=True, slots=True)
class Due:
    """A frame to be sent now."""

    frame: LoggedFrame
    after: str
    """The id of the frame that the log must end with; empty where any end will do."""


class AckWindow:
    """See the module's docstring."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._frames: deque[LoggedFrame] = deque()
        self._num_in_flight = 0
        self._log_end = ""

    def __len__(self) -> int:
        """Frames that are not acknowledged."""
        return len(self._frames)

    @property
    def oldest_told_ns(self) -> int | None:
        """When the first frame that is not acknowledged was told; None when there is none."""
        return self._frames[0].told_ns if self._frames else None

    @property
    def log_end(self) -> str:
        """The id of the last acknowledged frame."""
        return self._log_end

    def add(self, frame: LoggedFrame) -> bool:
        """Let a frame wait; False, and it is not taken, if the window is full."""
        if self.num_bytes + len(frame.payload) > self.max_bytes:
            return False
        self._frames.append(frame)
        self.num_bytes += len(frame.payload)
        return True

    def send(self, at_most: int) -> list[Due]:
        """The next frames to be sent, in order; they are in flight now."""
        start = self._num_in_flight
        frames = list(islice(self._frames, start, start + at_most))
        before = self._frames[start - 1].frame_id if start else self._log_end
        self._num_in_flight += len(frames)
        ids = [before, *(frame.frame_id for frame in frames)]
        return [Due(frame, after) for frame, after in zip(frames, ids, strict=False)]

    def acknowledge(self, frame_id: str) -> bool:
        """The log ends with this frame or a later one; False if it is none of the window's."""
        ids = [frame.frame_id for frame in self._frames]
        if frame_id not in ids:
            return False
        num_stored = ids.index(frame_id) + 1
        for _ in range(num_stored):
            self.num_bytes -= len(self._frames.popleft().payload)
        self._num_in_flight = max(0, self._num_in_flight - num_stored)
        self._log_end = frame_id
        return True

    def rewind(self) -> None:
        """Whether what is in flight arrived is not known: send it again."""
        self._num_in_flight = 0

    def rebase(self, log_end: str) -> None:
        """The log ends with a frame of somebody else, or is empty: go on from there."""
        self._log_end = log_end
        self._num_in_flight = 0
