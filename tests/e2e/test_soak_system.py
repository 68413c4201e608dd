"""The first rounds of it; `make soak-system MINUTES=30` goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from soak_system.run import Soak


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_conversations_outlive_random_faults_and_memory_holds_what_was_said(
    tmp_path: Path,
) -> None:
    soak = Soak(tmp_path, seed=14, round_s=5.0, faults=3, clients=3)
    report = await soak.run(seconds=1.0)

    assert report.failures == []
    assert report.rounds == 2
    assert sum(report.faults.values()) == 3
    assert report.turns_seen >= 6
    assert report.turns_held >= report.turns_seen
