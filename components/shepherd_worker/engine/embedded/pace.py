"""How many sequences an engine ends in a second of work, and so when a refused one may come back.

Counts the time of steps only: an idle hour says nothing about the pace.
"""

from __future__ import annotations

import math

HALF_LIFE_S = 10.0
"""Seconds of work after which what was seen counts half."""
SHORTEST_S, LONGEST_S = 1, 60


class Pace:
    """A decaying average of ends per second of work."""

    def __init__(self) -> None:
        self._worked_s = 0.0
        self._ended = 0.0

    def step(self, seconds: float, num_ended: int) -> None:
        """A step lasted `seconds` and ended `num_ended` sequences."""
        decay = 0.5 ** (seconds / HALF_LIFE_S)
        self._worked_s = self._worked_s * decay + seconds
        self._ended = self._ended * decay + num_ended

    def seconds_for(self, num_waiting: int) -> int:
        """Whole seconds until `num_waiting` sequences will have ended, from 1 to 60."""
        if self._worked_s == 0:
            return SHORTEST_S
        needed_s = num_waiting * self._worked_s / max(self._ended, 1.0)
        return min(max(SHORTEST_S, math.ceil(needed_s)), LONGEST_S)
