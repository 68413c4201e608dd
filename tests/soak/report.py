"""What a soak found, as JSON; flatness of memory, files, tasks and threads included."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from soak.resources import Resources


@dataclass(slots=True)
class Report:
    """Grows as the soak goes on."""

    seed: int
    seconds: float = 0.0
    rounds: int = 0
    samples: int = 0
    """Times that what a reader held was held against what its publisher knew."""
    faults: Counter[int] = field(default_factory=Counter)
    """By row of the fault table."""
    totals: dict[tuple[int, str], dict[str, int]] = field(default_factory=dict)
    """By process and stream, the last that its counters said."""
    converged_s: list[float] = field(default_factory=list)
    """From the end of a round's faults until everybody held everything."""
    failures: list[str] = field(default_factory=list)
    resources: Resources = field(default_factory=Resources)

    def counted(self) -> Counter[str]:
        """What publishers and readers counted, of those that lived to the end of a round."""
        totals: Counter[str] = Counter()
        for counters in self.totals.values():
            totals.update(counters)
        return totals

    def save(self, path: Path) -> None:
        """As JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_json(), indent=1) + "\n")

    def to_json(self) -> dict[str, object]:
        """Everything that somebody may want to know of it."""
        converged = self.converged_s or [0.0]
        return {
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "rounds": self.rounds,
            "faults_by_row": {str(row): self.faults[row] for row in sorted(self.faults)},
            "samples": self.samples,
            "counters": dict(self.counted()),
            "converged_median_s": round(statistics.median(converged), 2),
            "converged_max_s": round(max(converged), 2),
            "resources": self.resources.to_json(),
            "failures": self.failures,
        }
