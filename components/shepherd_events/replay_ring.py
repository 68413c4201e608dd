"""The frames that a replay can still bring, bounded by their bytes.

Holds the original bytes of each frame with the range of numbers that it stands
for; ranges follow one another without a hole, the oldest leave first.  Safe for
threads: the sender appends while others page.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from itertools import islice


@dataclass(frozen=True, slots=True)
class _SentFrame:
    last_seq: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class ReplayPage:
    """Frames from one number on; `next_seq` lies beyond `head_seq` when nothing follows."""

    frames: tuple[bytes, ...]
    next_seq: int
    head_seq: int


class ReplayRing:
    """See the module's docstring."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self._frames: deque[_SentFrame] = deque()
        self._size_bytes = 0
        self._first_seq = 1
        self._head_seq = 0
        self._lock = threading.Lock()

    @property
    def first_available(self) -> int:
        """The oldest number that a replay can bring; beyond the head when the ring is empty."""
        return self._first_seq

    def append(self, first_seq: int, last_seq: int, payload: bytes) -> None:
        """Keep a frame; older ones leave until the bytes fit, at last this one itself."""
        with self._lock:
            assert first_seq == self._head_seq + 1, (first_seq, self._head_seq)
            self._frames.append(_SentFrame(last_seq, payload))
            self._size_bytes += len(payload)
            self._head_seq = last_seq
            while self._size_bytes > self.capacity_bytes:
                oldest = self._frames.popleft()
                self._size_bytes -= len(oldest.payload)
                self._first_seq = oldest.last_seq + 1

    def page(self, from_seq: int, max_bytes: int) -> ReplayPage | None:
        """Frames from `from_seq` on, at least one if there is any; None if it is not kept."""
        with self._lock:
            if from_seq < self._first_seq:
                return None
            start = bisect_left(self._frames, from_seq, key=lambda frame: frame.last_seq)
            frames: list[bytes] = []
            next_seq = from_seq
            for frame in islice(self._frames, start, None):
                max_bytes -= len(frame.payload)
                if frames and max_bytes < 0:
                    break
                frames.append(frame.payload)
                next_seq = frame.last_seq + 1
            return ReplayPage(tuple(frames), next_seq, self._head_seq)
