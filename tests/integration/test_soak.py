"""Row 18, the first twenty seconds of it; `make soak MINUTES=30` goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from soak.run import Soak


@pytest.mark.slow
def test_random_faults_for_a_while_leave_everybody_holding_the_truth(tmp_path: Path) -> None:
    report = Soak(tmp_path, seed=18, round_s=5.0, faults=8).run(seconds=12.0)

    assert report.failures == []
    assert report.rounds >= 1
    assert report.samples > 10
    assert report.counted()["events"] > 2_000
    assert len(report.faults) >= 5
