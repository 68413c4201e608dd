"""`shepherd demo`, as a newcomer runs it, and what it leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shepherd_tiny_chat.corpus.small_talk import KNOWLEDGE as QUESTIONS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def children_of(run_dir: Path) -> list[str]:
    """Command lines of processes that were started for this run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                environ = (entry / "environ").read_bytes()
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(run_dir).encode() in environ and command:
                found.append(command.replace(b"\0", b" ").decode())
    return found


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
    assert children_of(build_dir / "demo") == []


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_up_says_where_it_is_and_a_signal_ends_all_of_it(build_dir: Path) -> None:
    up = shepherd("up", "--build-dir", str(build_dir))
    assert up.stdout is not None
    lines = []
    while "Ctrl-C stops everything." not in (line := up.stdout.readline()):
        lines.append(line)
        assert up.poll() is None, "".join(lines)

    assert any(line.startswith("OpenAI API   http://127.0.0.1:") for line in lines)
    _, _, command = "".join(lines).partition("Try:\n")
    answer = json.loads(subprocess.check_output(["bash", "-c", command], timeout=60))
    assert answer["choices"][0]["message"]["content"] == dict(QUESTIONS)["Why is the sky blue?"]
    assert len(children_of(build_dir / "up")) >= 4

    up.send_signal(signal.SIGINT)
    assert up.wait(60) == 0
    up.stdout.close()
    assert children_of(build_dir / "up") == []


def test_a_demo_that_is_interrupted_leaves_no_process_behind(build_dir: Path) -> None:
    demo = shepherd("demo", "--build-dir", str(build_dir))
    deadline = time.monotonic() + 60
    while not children_of(build_dir / "demo"):
        assert time.monotonic() < deadline
        time.sleep(0.1)

    demo.send_signal(signal.SIGTERM)
    out, _ = demo.communicate(timeout=60)

    assert demo.returncode == 1, out
    assert children_of(build_dir / "demo") == []
