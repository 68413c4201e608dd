"""The embedded engine beside its peers, on this machine; one section per subject.

    make bench NAME=engine
    python -m benchmarks.engine --section generation --rounds 1

Each round runs the peers and then ours; quoted are medians over the rounds.
Writes build/bench/engine.json, a list of `figure.Figure`, and what it was taken
on to engine.machine.json.  `met` is false where a goal was missed.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import logging
import pkgutil
from pathlib import Path
from typing import Protocol, cast

import transformers

from benchmarks import sections
from benchmarks.figure import Figure, machine, told, write

OUT = Path("build/bench/engine.json")


class Section(Protocol):
    """A module of `benchmarks/sections`."""

    def figures(self, rounds: int) -> list[Figure]:
        """Measure."""
        ...


def main() -> None:
    """Run the sections that were asked for, and report."""
    names = sorted(module.name for module in pkgutil.iter_modules(sections.__path__))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine")
    parser.add_argument("--section", choices=names, action="append", help="default: all of them")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)
    print(", ".join(f"{key} {value}" for key, value in machine().items()), flush=True)
    rows: list[Figure] = []
    for name in options.section or names:
        section = cast("Section", importlib.import_module(f"{sections.__name__}.{name}"))
        print(f"{name}: {(section.__doc__ or '').partition(chr(10))[0]}", flush=True)
        for row in section.figures(options.rounds):
            print(f"  {told(row)}", flush=True)
            rows.append(row)
        gc.collect()
    write(rows, OUT)


if __name__ == "__main__":
    main()
