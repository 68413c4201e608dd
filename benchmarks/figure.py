"""One measured figure beside its peer's, and how a run of them is told.

A figure is a median over rounds; its ratio is above 1 where ours is better,
whatever the unit.  The machine stands once per run, not in the rows.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Spread:
    """How far the rounds lay apart."""

    low: float
    high: float
    of: str
    """Whose values, and how the ends were taken."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of a result."""

    figure: str
    ours: float
    peer: float
    peer_name: str
    ratio: float
    """Above 1 in our favour."""
    unit: str
    spread: Spread
    goal: float | None
    """The ratio that was aimed at; None for a figure that is only told."""
    met: bool | None


def compare(
    figure: str,
    ours: Sequence[float],
    peer: Sequence[float],
    *,
    peer_name: str,
    unit: str,
    goal: float | None = None,
    less_is_better: bool = False,
) -> Figure:
    """The figure of what was measured in each round."""
    mine, theirs = statistics.median(ours), statistics.median(peer)
    ratio = theirs / mine if less_is_better else mine / theirs
    return Figure(
        figure=figure,
        ours=_rounded(mine),
        peer=_rounded(theirs),
        peer_name=peer_name,
        ratio=_rounded(ratio),
        unit=unit,
        spread=Spread(
            _rounded(min(ours)),
            _rounded(max(ours)),
            f"ours, lowest and highest of {len(ours)} rounds",
        ),
        goal=goal,
        met=None if goal is None else ratio >= goal,
    )


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu": _cpu_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
    }


def told(row: Figure) -> str:
    """A figure as one line."""
    goal = "" if row.goal is None else f"  goal {row.goal:g}: {'met' if row.met else 'MISSED'}"
    return (
        f"{row.figure:34} {row.ours:10.6g} {row.unit:9} {row.peer_name}: {row.peer:.6g}  "
        f"ratio {row.ratio:.3g}  spread {row.spread.low:.6g} to {row.spread.high:.6g}{goal}"
    )


def write(rows: Sequence[Figure], path: Path) -> None:
    """Write the rows to `path`, and the machine beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    path.with_suffix(".machine.json").write_text(json.dumps(machine(), indent=2) + "\n")


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo")
    if lines.is_file():
        for line in lines.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
