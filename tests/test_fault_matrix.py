"""docs/faults.md says what happens when things break; this holds it to the tests there are."""

from __future__ import annotations

import re
from collections import defaultdict

import pytest

from fault_matrix import Row, Seen, places, rows, verdict

NUM_ROWS = {"W": 12, "S": 8, "M": 9, "G": 6, "U": 3}


def test_every_fault_has_a_row_with_its_proof_and_its_tests() -> None:
    by_part = defaultdict(list)
    for row in rows():
        by_part[row.row[0]].append(row.row)

    for part, number in NUM_ROWS.items():
        assert by_part[part] == [f"{part}{n}" for n in range(1, number + 1)]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.row)
def test_the_tests_of_a_fault_exist_and_are_collected(row: Row) -> None:
    assert row.tests
    for name in row.tests:
        found = {path.name for path in places().get(name, [])}

        assert found, f"{name} is nowhere in tests/"
        assert all(file.startswith("test_") for file in found), f"{name} is not collected"


def test_every_test_that_names_a_row_of_the_gateway_stands_in_it() -> None:
    named = {row.row: set(row.tests) for row in rows()}
    missing = [
        name
        for name in places()
        if (about := re.match(r"test_g(\d)_", name)) and name not in named[f"G{about[1]}"]
    ]

    assert missing == []


def test_a_row_is_as_expected_only_when_everything_ran_and_passed() -> None:
    passed = Seen("a", {"passed": 2})

    assert verdict([passed]) == "as expected"
    assert verdict([passed, Seen("b", {"passed": 1, "failed": 1})]) == "failed"
    assert verdict([passed, Seen("c", {"skipped": 1})]) == "not run"
    assert verdict([passed, Seen("d")]) == "not run"
