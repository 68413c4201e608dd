"""A memory that is killed between any two of its system calls loses nothing and repeats nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "crash_process.py"
POINTS = 30

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ptrace is Linux's")


def test_a_memory_that_is_killed_at_its_system_calls_comes_back_with_everything(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path), str(POINTS)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    if "ptrace(0)" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip("this machine allows no ptrace of one's own child")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)

    assert found["differences"] == []
    assert found["killed"] >= POINTS
    assert found["calls"] > 300
    local = found["expected"]["tenants"]["local"]
    assert [(ordinal, state) for ordinal, state, _ in local["turns"]] == [
        (1, "archived"),
        (2, "archived"),
        (3, "live"),
    ]
    assert local["searchable"] == len(local["told_of"]) == 2
    assert local["unheard"] == 0
