"""What a soak of the whole system found, as JSON."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from soak.resources import Resources

MIN_ROUNDS = 12
"""Of a process whose memory is judged: caches, allocators and frontends fill for some minutes."""
COUNT_SLACK = 24
"""Connections come and go with what clients ask at a time."""


@dataclass(slots=True)
class Report:
    """Grows as the soak goes on."""

    seed: int
    seconds: float = 0.0
    rounds: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    """By kind and target."""
    restarts: dict[str, int] = field(default_factory=dict)
    """By process."""
    clients: Counter[str] = field(default_factory=Counter)
    healed_s: list[float] = field(default_factory=list)
    """From the end of a round's faults until everything ran and the streams were read."""
    turns_seen: int = 0
    turns_held: int = 0
    turns_archived: int = 0
    turns_unseen: int = 0
    """Held attempts whose answers no client saw to their ends."""
    turns_cut_short: int = 0
    """Answered turns that are not held, for their worker was killed within moments."""
    notices: int = 0
    failures: list[str] = field(default_factory=list)
    resources: Resources = field(
        default_factory=lambda: Resources(min_rounds=MIN_ROUNDS, count_slack=COUNT_SLACK)
    )

    def save(self, path: Path) -> None:
        """As JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_json(), indent=1) + "\n")

    def to_json(self) -> dict[str, object]:
        """Everything that somebody may want to know of it."""
        healed = self.healed_s or [0.0]
        return {
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "rounds": self.rounds,
            "faults": dict(sorted(self.faults.items())),
            "restarts": self.restarts,
            "clients": dict(sorted(self.clients.items())),
            "healed_median_s": round(statistics.median(healed), 1),
            "healed_max_s": round(max(healed), 1),
            "turns_seen": self.turns_seen,
            "turns_held": self.turns_held,
            "turns_archived": self.turns_archived,
            "turns_unseen": self.turns_unseen,
            "turns_cut_short": self.turns_cut_short,
            "notices": self.notices,
            "resources": self.resources.to_json(),
            "failures": self.failures,
        }
