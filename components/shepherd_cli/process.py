"""One child process: its log, its readiness, its end.

A child leads a process group of its own, so that stopping it stops whatever it
started, and a Ctrl-C on the terminal reaches the parent only.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

READY_POLL_S = 0.05
LOG_LINES_SHOWN = 15


class ProcessFailedError(Exception):
    """A child did not become ready, or ended by itself."""

    def __init__(self, name: str, what: str, log_path: Path) -> None:
        self.name = name
        self.log_path = log_path
        lines = log_path.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        shown = "\n".join(f"    {line}" for line in lines)
        super().__init__(f"{name} {what}; the end of {log_path}:\n{shown}")


class ChildProcess:
    """A started child; call `stop` or `kill` in the end."""

    def __init__(self, name: str, child: asyncio.subprocess.Process, log_path: Path) -> None:
        self.name = name
        self.log_path = log_path
        self._child = child

    @classmethod
    async def start(
        cls, name: str, argv: Sequence[str], env: Mapping[str, str], log_path: Path
    ) -> ChildProcess:
        """Start `argv`; output and errors are appended to `log_path`."""
        with log_path.open("ab") as log:
            child = await asyncio.create_subprocess_exec(
                *argv,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return cls(name, child, log_path)

    @property
    def pid(self) -> int:
        """The child's process id, which is also its group's."""
        return self._child.pid

    @property
    def exit_code(self) -> int | None:
        """None while the child runs; negative where a signal ended it."""
        return self._child.returncode

    async def until(
        self, ready: Callable[[], Awaitable[bool]], *, timeout_s: float, what: str = "ready"
    ) -> None:
        """Wait until `ready` says so.

        Raises:
            ProcessFailedError: the child ended first, or the time did.
        """
        deadline = time.monotonic() + timeout_s
        while not await ready():
            if self.exit_code is not None:
                raise ProcessFailedError(self.name, f"ended with {self.exit_code}", self.log_path)
            if time.monotonic() > deadline:
                raise ProcessFailedError(
                    self.name, f"was not {what} after {timeout_s:g} s", self.log_path
                )
            await asyncio.sleep(READY_POLL_S)

    async def wait(self) -> int:
        """The exit code, once the child has ended."""
        return await self._child.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the child alone."""
        if self.exit_code is None:
            os.kill(self.pid, number)

    async def stop(self, timeout_s: float) -> int:
        """Ask the child to end, and insist when it does not; its exit code."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout_s):
                return await self.wait()
        except TimeoutError:
            self.kill()
            return await self.wait()

    def kill(self) -> None:
        """End the child and what is left of its group at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
