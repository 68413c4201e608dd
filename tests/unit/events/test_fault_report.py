"""docs/kv-events.md says which test proves which promise; this holds it to the tests there are."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
REPORT = (ROOT / "docs" / "kv-events.md").read_text("utf-8")
NUM_ROWS, NUM_PROMISES = 18, 11
_ROW = re.compile(r"^\| (\d+) \| (.+) \| (.+) \| ([G0-9 ]+) \|$", re.MULTILINE)
_PROMISE = re.compile(r"^\| (G\d+) \| (.+) \|$", re.MULTILINE)
_NAME = re.compile(r"`((?:test|row)_\w+)`")


@cache
def functions() -> dict[str, list[Path]]:
    """Every function of the tests, and where it is."""
    found = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found[node.name].append(path)
    return found


def rows() -> dict[int, tuple[set[str], set[str]]]:
    """Row -> the tests that it names, and the promises."""
    return {
        int(number): (set(_NAME.findall(tests)), set(promises.split()))
        for number, _, tests, promises in _ROW.findall(REPORT)
    }


def rows_of(name: str) -> set[int]:
    """The rows that a test says it is about."""
    about = re.match(r"(?:test_)?rows?_(\d+)(?:_and_(\d+))?_", name)
    return {int(number) for number in about.groups() if number} if about else set()


def test_every_row_is_there_and_names_a_test_and_a_promise() -> None:
    assert list(rows()) == list(range(1, NUM_ROWS + 1))
    assert all(tests and promises for tests, promises in rows().values())


def test_every_promise_is_written_down_and_proven_by_some_row() -> None:
    promises = [f"G{number}" for number in range(1, NUM_PROMISES + 1)]

    assert [name for name, _ in _PROMISE.findall(REPORT)] == promises
    assert set.union(*(proven for _, proven in rows().values())) == set(promises)


@pytest.mark.parametrize("row", range(1, NUM_ROWS + 1))
def test_the_tests_of_a_row_exist_and_are_collected(row: int) -> None:
    for name in rows()[row][0]:
        places = functions().get(name, [])

        assert len(places) == 1, f"{name} is {len(places)} times in tests/"
        assert places[0].name.startswith("test_"), f"{name} is not where tests are collected"


def test_every_test_that_names_a_row_stands_in_that_row() -> None:
    reported = rows()
    missing = [
        (number, name)
        for name in functions()
        for number in rows_of(name)
        if name not in reported[number][0]
    ]

    assert missing == []
