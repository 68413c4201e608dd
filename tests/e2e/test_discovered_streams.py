"""Streams found through Dynamo's discovery: they join, leave in order, freeze, and are killed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from line_process import LineProcess
from soak.scene import PYTHON_PATH

pytestmark = pytest.mark.e2e

PROGRAM = str(Path(__file__).parents[1] / "discovered_stream.py")
LEASE_S = 30.0
"""Dynamo's file backend lets go of who is killed after about ten."""


class Stage:
    """Workers that come and go, and one reader."""

    def __init__(self, directory: Path) -> None:
        self._env = PYTHON_PATH | {
            "DYN_FILE_KV": str(directory / "discovery"),
            "DYN_TCP_RPC_HOST": "127.0.0.1",
            "DYN_TCP_RESPONSE_STREAM_HOST": "lo",
            "DYN_LOG": "off",
        }
        self.workers: dict[str, LineProcess] = {}
        self.reader = LineProcess(PROGRAM, "reader", env=self._env)

    def join(self, *names: str) -> None:
        for name in names:
            self.workers[name] = LineProcess(PROGRAM, "worker", name, env=self._env)

    def wait(self, wanted: Callable[[dict[str, Any]], bool], within_s: float = 15.0) -> None:
        deadline = time.monotonic() + within_s
        while not wanted(told := self.reader.ask("how is it?")):
            assert time.monotonic() < deadline, told
            time.sleep(0.05)

    def end(self) -> None:
        for process in (*self.workers.values(), self.reader):
            process.end()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.end()


def test_streams_join_leave_freeze_and_are_killed(stage: Stage) -> None:
    stage.join("a", "b")
    stage.wait(lambda told: told["states"] == {"a": "live", "b": "live"})

    stage.workers["b"].ask("leave")
    stage.wait(lambda told: told["history"][-1] == ["left", "b"] and told["states"].keys() == {"a"})

    stage.workers["a"].stop()
    stage.wait(lambda told: told["states"]["a"] == "stale")
    stage.workers["a"].go_on()
    stage.wait(lambda told: told["states"] == {"a": "live"})

    stage.workers["a"].end()
    stage.join("c")
    stage.wait(lambda told: told["states"].get("c") == "live")
    stage.wait(lambda told: told["history"][-1] == ["left", "a"], LEASE_S)
    assert stage.reader.ask("")["states"] == {"c": "live"}


def test_a_newcomer_that_is_frozen_keeps_nobody_from_joining(stage: Stage) -> None:
    stage.join("a")
    stage.wait(lambda told: told["states"] == {"a": "live"})
    stage.workers["a"].stop()
    stage.reader.end()
    stage.reader = LineProcess(PROGRAM, "reader", env=stage._env)
    stage.join("b")
    stage.wait(lambda told: told["states"] == {"b": "live"}, within_s=4.0)
    stage.workers["a"].go_on()
    stage.wait(lambda told: told["states"] == {"a": "live", "b": "live"})
