"""A benchmark that is made of sections: modules with `figures(rounds)`, one group of rows each."""

from __future__ import annotations

import argparse
import gc
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Protocol, cast

from benchmarks.figure import Figure, machine, told, write


class Section(Protocol):
    """A module of a package of sections."""

    def figures(self, rounds: int) -> list[Figure]:
        """Measure."""
        ...


def run(prog: str, sections: ModuleType, out: Path) -> None:
    """Run the sections that the command line asks for, report, and write the rows to `out`."""
    names = sorted(module.name for module in pkgutil.iter_modules(sections.__path__))
    parser = argparse.ArgumentParser(prog=f"python -m {prog}")
    parser.add_argument("--section", choices=names, action="append", help="default: all of them")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    options = parser.parse_args()
    print(", ".join(f"{key} {value}" for key, value in machine().items()), flush=True)
    rows: list[Figure] = []
    for name in options.section or names:
        section = cast("Section", importlib.import_module(f"{sections.__name__}.{name}"))
        print(f"{name}: {(section.__doc__ or '').partition(chr(10))[0]}", flush=True)
        for row in section.figures(options.rounds):
            print(f"  {told(row)}", flush=True)
            rows.append(row)
        gc.collect()
    write(rows, out)
