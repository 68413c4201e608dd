"""The two clocks of the service, as something that a test can hand over."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clocks:
    """What time it is, from any thread."""

    unix_ns: Callable[[], int] = time.time_ns
    """For what people read and workers compare."""
    monotonic_ns: Callable[[], int] = time.monotonic_ns
    """For waiting: nobody sets it."""
