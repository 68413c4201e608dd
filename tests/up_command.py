"""`shepherd up` as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from left_processes import left_of
from shepherd_cli.supervisor.status import FILE_NAME, ProcessStatus, StackStatus


class Up:
    """A system that was started, and is ended by whoever made it."""

    def __init__(self, directory: Path, *options: str, env: Mapping[str, str]) -> None:
        self.build_dir = directory / "build"
        self._log_file = directory / "up.log"
        argv = [sys.executable, "-m", "shepherd_cli", "up", "--build-dir", str(self.build_dir)]
        with self._log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [*argv, *options],
                stdout=log,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | dict(env),
            )

    def welcome(self) -> list[str]:
        """What it says when everything can be used."""
        assert self.process.stderr is not None
        lines: list[str] = []
        for line in self.process.stderr:
            lines.append(line)
            if "Ctrl-C stops everything." in line:
                return lines
        raise AssertionError("".join(lines) + self.log())

    def ended(self) -> tuple[int, str]:
        """Its exit code and what it said last."""
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said

    def log(self) -> str:
        """What its processes have said so far."""
        return self._log_file.read_text()

    def status(self) -> StackStatus:
        """What it tells of its processes."""
        return StackStatus.read(self.build_dir / "up" / FILE_NAME)

    def of(self, name: str) -> ProcessStatus:
        """What it tells of one."""
        (found,) = (each for each in self.status().processes if each.name == name)
        return found

    def left(self) -> list[str]:
        """Its processes that are still there."""
        return left_of(self.build_dir / "up")

    def kill(self) -> None:
        """However the test ended."""
        self.process.kill()
        self.process.communicate()


def until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Wait for something to be true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, condition
        time.sleep(0.05)
