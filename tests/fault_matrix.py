"""docs/faults.md as data, and the run of what it names.

`python -m fault_matrix` runs the tests of all rows, or of those that are named,
and writes build/faults.json.  A row is as expected when all its tests passed; a
test that was skipped leaves the row "not run", with the reason.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
MATRIX = ROOT / "docs" / "faults.md"
REPORT = ROOT / "build" / "faults.json"
_ROW = re.compile(r"^\| ([WSMGU]\d+) \| (.+) \| (.+) \| (.+) \| (.+) \|$", re.MULTILINE)
_NAME = re.compile(r"`(test_\w+)`")


@dataclass(frozen=True, slots=True)
class Row:
    """One fault and what is claimed of it."""

    row: str
    fault: str
    injected: str
    expected: str
    tests: tuple[str, ...]
    """Names of functions."""


@dataclass(slots=True)
class Seen:
    """One test, in all its variants."""

    test: str
    outcomes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    measured: dict[str, Any] = field(default_factory=dict)
    """What the test wrote down of the fault and its end."""
    why: list[str] = field(default_factory=list)
    """Of each variant that did not pass."""


def rows() -> list[Row]:
    """The tables of the page, from top to bottom."""
    found = _ROW.findall(MATRIX.read_text("utf-8"))
    return [Row(*cells, tuple(_NAME.findall(tests))) for *cells, tests in found]


@cache
def places() -> dict[str, list[Path]]:
    """Every function of the tests, and the files that define it."""
    found = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found[node.name].append(path)
    return found


class Witness:
    """A pytest plugin that keeps the named tests and notes what became of them."""

    def __init__(self, names: set[str]) -> None:
        self.seen = {name: Seen(name) for name in sorted(names)}

    @pytest.hookimpl
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Run nothing else that stands in the same files."""
        other = [item for item in items if _name_of(item.nodeid) not in self.seen]
        config.hook.pytest_deselected(items=other)
        items[:] = [item for item in items if _name_of(item.nodeid) in self.seen]

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note an outcome; a fixture that fails counts as the test's failure."""
        seen = self.seen[_name_of(report.nodeid)]
        seen.seconds = round(seen.seconds + report.duration, 3)
        if report.when == "call" or report.outcome != "passed":
            seen.outcomes[report.outcome] = seen.outcomes.get(report.outcome, 0) + 1
            seen.measured |= dict(report.user_properties)
        if report.outcome != "passed":
            seen.why.append(_reason(report))


def _name_of(nodeid: str) -> str:
    return nodeid.rpartition("::")[2].partition("[")[0]


def _reason(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    return report.longreprtext.strip().rpartition("\n")[2][-300:]


def verdict(seen: list[Seen]) -> str:
    """What the outcomes of a row's tests come to."""
    if any("failed" in test.outcomes for test in seen):
        return "failed"
    return "as expected" if all(set(test.outcomes) == {"passed"} for test in seen) else "not run"


def main(chosen: list[str]) -> int:
    """Run the chosen rows, all if none is named; 0 when no test failed."""
    wanted = [row for row in rows() if not chosen or row.row in chosen]
    witness = Witness({name for row in wanted for name in row.tests})
    files = sorted({str(path) for name in witness.seen for path in places()[name]})
    status = pytest.main(["-q", *files], plugins=[witness])
    report = []
    for row in wanted:
        seen = [witness.seen[name] for name in row.tests]
        report.append(asdict(row) | {"outcome": verdict(seen), "tests": [asdict(t) for t in seen]})
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    for entry in report:
        sys.stdout.write(f"{entry['row']:4} {entry['outcome']:12} {entry['fault']}\n")
    sys.stdout.write(f"{REPORT.relative_to(ROOT)}\n")
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
