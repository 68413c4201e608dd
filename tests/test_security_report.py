"""docs/security.md says which test proves which requirement; this holds it to the tests there are."""

from __future__ import annotations

import re

import pytest

from fault_matrix import ROOT, places

REPORT = (ROOT / "docs" / "security.md").read_text("utf-8")
_ROW = re.compile(r"^\| (S\d+) \| .+ \| .+ \| (.+) \|$", re.MULTILINE)
_NAME = re.compile(r"`(test_\w+)`")
ROWS = {row: _NAME.findall(tests) for row, tests in _ROW.findall(REPORT)}
NUM_REQUIREMENTS = 15


def test_every_requirement_has_a_row() -> None:
    assert list(ROWS) == [f"S{number}" for number in range(1, NUM_REQUIREMENTS + 1)]


@pytest.mark.parametrize("row", ROWS)
def test_the_tests_of_a_requirement_exist_and_are_collected(row: str) -> None:
    assert ROWS[row]
    for name in ROWS[row]:
        found = {path.name for path in places().get(name, [])}

        assert found, f"{name} is nowhere in tests/"
        assert all(file.startswith("test_") for file in found), f"{name} is not collected"
