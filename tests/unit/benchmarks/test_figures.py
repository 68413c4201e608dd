"""A figure is a median, its ratio is above 1 in our favour, and a missed goal says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.figure import Spread, compare, told, write
from benchmarks.workload import Timing


def test_more_is_better_for_a_rate() -> None:
    row = compare("rate", [30, 10, 20], [10, 10, 40], peer_name="p", unit="tokens/s", goal=2.0)

    assert (row.ours, row.peer, row.ratio, row.met) == (20, 10, 2.0, True)
    assert row.spread == Spread(10, 30, "ours, lowest and highest of 3 rounds")


def test_less_is_better_for_a_time_and_a_missed_goal_is_told() -> None:
    row = compare("t", [2.0], [3.0], peer_name="p", unit="s", goal=2.0, less_is_better=True)

    assert (row.ratio, row.met) == (1.5, False)
    assert told(row).endswith("goal 2: MISSED")


def test_a_figure_without_a_goal_is_neither_met_nor_missed() -> None:
    row = compare("t", [2.0], [3.0], peer_name="p", unit="s")

    assert (row.goal, row.met) == (None, None)
    assert "goal" not in told(row)


def test_the_file_is_a_list_and_the_machine_stands_beside_it(tmp_path: Path) -> None:
    rows = [compare("a", [1], [2], peer_name="p", unit="GB/s")]
    write(rows, tmp_path / "bench/engine.json")

    assert json.loads((tmp_path / "bench/engine.json").read_text()) == [
        {
            "figure": "a",
            "ours": 1.0,
            "peer": 2.0,
            "peer_name": "p",
            "ratio": 0.5,
            "unit": "GB/s",
            "spread": {"low": 1.0, "high": 1.0, "of": "ours, lowest and highest of 1 rounds"},
            "goal": None,
            "met": None,
        }
    ]
    assert json.loads((tmp_path / "bench/engine.machine.json").read_text())["cores"] > 0


def test_decode_is_counted_only_while_every_request_decodes() -> None:
    timing = Timing(((1.0, 2.0, 3.0, 4.0), (2.5, 3.0, 4.0, 5.0, 6.0)))

    assert timing.decode == (2 + 2) / (4.0 - 2.5)
    assert timing.ttft == 1.75
    assert timing.total == 9 / 6


def test_requests_that_never_decode_together_have_no_such_rate() -> None:
    with pytest.raises(ValueError, match=r"ended at 2.000 s, another began at 3.000 s"):
        _ = Timing(((1.0, 2.0), (3.0, 4.0))).decode
