"""What a process said of itself at one time: its metrics, and the kernel's figures of it.

Parsing and arithmetic only; a missing series is None and never 0.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from prometheus_client.parser import text_string_to_metric_families

_OURS: Final = "shepherd_"
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_FROZEN: Final = "T"


@dataclass(frozen=True, slots=True)
class Reading:
    """The metrics of one process; of ours, Dynamo's are left out."""

    at_s: float
    """By a clock that only goes forward."""
    series: Mapping[str, tuple[tuple[Mapping[str, str], float], ...]]
    """By name: labels and value of each."""

    @classmethod
    def parse(cls, text: str, at_s: float) -> Self:
        """Read Prometheus's text format.

        Raises:
            ValueError: it is something else.
        """
        ours = "".join(line + "\n" for line in text.splitlines() if line.startswith(_OURS))
        found: dict[str, list[tuple[Mapping[str, str], float]]] = {}
        for family in text_string_to_metric_families(ours):
            for sample in family.samples:
                found.setdefault(sample.name, []).append((sample.labels, sample.value))
        return cls(at_s, {name: tuple(values) for name, values in found.items()})

    def total(self, name: str, **labels: str) -> float | None:
        """The sum of all series with these labels; None where there is none."""
        values = [
            value
            for has, value in self.series.get(name, ())
            if all(has.get(label) == wanted for label, wanted in labels.items())
        ]
        return sum(values) if values else None

    def since(self, before: Self | None, name: str, **labels: str) -> float | None:
        """How much a counter has grown since another reading; from 0 where it began anew."""
        now = self.total(name, **labels)
        then = before.total(name, **labels) if before is not None else None
        if now is None or then is None:
            return None
        return now - then if now >= then else now

    def per_s(self, before: Self | None, name: str, **labels: str) -> float | None:
        """The growth of a counter in a second."""
        grown = self.since(before, name, **labels)
        if grown is None or before is None or self.at_s <= before.at_s:
            return None
        return grown / (self.at_s - before.at_s)

    def mean(self, before: Self | None, histogram: str) -> float | None:
        """The mean of what a histogram saw since another reading; None where it saw nothing."""
        total = self.since(before, histogram + "_sum")
        count = self.since(before, histogram + "_count")
        return total / count if total is not None and count else None


@dataclass(frozen=True, slots=True)
class Usage:
    """What the kernel says of a process."""

    at_s: float
    cpu_s: float
    """Time on a processor since its start, in all threads."""
    rss_bytes: int
    is_frozen: bool
    """Stopped by SIGSTOP."""

    @classmethod
    def of(cls, pid: int, at_s: float) -> Self | None:
        """None where there is no such process."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return None
        ticks = int(fields[11]) + int(fields[12])
        return cls(at_s, ticks / _TICKS_PER_S, pages * _PAGE_BYTES, fields[0] == _FROZEN)

    def cpu_since(self, before: Self | None) -> float | None:
        """Processors that were busy since then; None where it is another process."""
        if before is None or self.at_s <= before.at_s or self.cpu_s < before.cpu_s:
            return None
        return (self.cpu_s - before.cpu_s) / (self.at_s - before.at_s)
