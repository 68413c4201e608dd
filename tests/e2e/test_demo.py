"""`shepherd demo`, as a newcomer runs it, and what it leaves behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from left_processes import left_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


@pytest.fixture
def build_dir(tmp_path: Path) -> Path:
    return tmp_path / "build"


def shepherd(*args: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "shepherd_cli", *args]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_the_demo_sees_the_whole_path_and_leaves_no_process_behind(build_dir: Path) -> None:
    demo = shepherd("demo", "--json", "--build-dir", str(build_dir))
    out, _ = demo.communicate(timeout=200)

    assert demo.returncode == 0, out
    assert (build_dir / "demo.json").read_text() in out
    report = json.loads((build_dir / "demo.json").read_text())
    for seen in (
        "search_hit",
        "disaggregated_equals_aggregated",
        "kv_blocks_moved",
        "told_by_notice",
        "recalled_by_search",
        "answered_right",
    ):
        assert report[seen] is True
    for count in ("blocks_stored", "blocks_removed", "turns_archived", "notices", "seconds"):
        assert report[count] > 0
    assert 'NOTICE: Conversation regarding "My cat is called Tibbles."' in out
    assert "Your cat is called Tibbles." in out.partition("Ada is back")[2]
    assert left_of(build_dir / "demo") == []


def test_a_demo_that_is_interrupted_leaves_no_process_behind(build_dir: Path) -> None:
    demo = shepherd("demo", "--build-dir", str(build_dir))
    deadline = time.monotonic() + 60
    while not left_of(build_dir / "demo"):
        assert time.monotonic() < deadline
        time.sleep(0.1)

    demo.send_signal(signal.SIGTERM)
    out, _ = demo.communicate(timeout=60)

    assert demo.returncode == 1, out
    assert left_of(build_dir / "demo") == []
