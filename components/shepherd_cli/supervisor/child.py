"""One supervised process: it dies with us, and every line that it writes is ours to read.

A child leads a process group of its own, so that what it started ends with it, and a
Ctrl-C on the terminal reaches us only.  Event loop of the main thread only.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from shepherd_cli.supervisor import die_with_parent

MAX_LINE_BYTES = 64 << 10
"""Longer lines are cut into several."""


class Child:
    """A process that was started; `wait` for its end."""

    def __init__(self, process: asyncio.subprocess.Process, output: asyncio.StreamReader) -> None:
        self._process = process
        self._output = output
        self._pipe: asyncio.ReadTransport | None = None
        self._is_over = False

    @classmethod
    async def spawn(cls, argv: Sequence[str], env: Mapping[str, str]) -> Child:
        """Start `argv`; stdout and stderr are one stream of lines.

        Raises:
            OSError: there are no more processes or files.
        """
        reads, writes = os.pipe()
        launcher = (sys.executable, "-I", "-S", str(Path(die_with_parent.__file__)))
        try:
            process = await asyncio.create_subprocess_exec(
                *launcher,
                str(os.getpid()),
                *argv,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=writes,
                stderr=writes,
                start_new_session=True,
            )
        except BaseException:
            os.close(reads)
            raise
        finally:
            os.close(writes)
        child = cls(process, asyncio.StreamReader(limit=MAX_LINE_BYTES))
        child._pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(child._output), os.fdopen(reads, "rb", 0)
        )
        return child

    @property
    def pid(self) -> int:
        """The process's id, which is also its group's."""
        return self._process.pid

    async def lines(self) -> AsyncIterator[str]:
        """What it writes, without ends of lines, until nobody can write any more."""
        while True:
            try:
                line = await self._output.readuntil()
            except asyncio.LimitOverrunError:
                line = await self._output.read(MAX_LINE_BYTES)
            except asyncio.IncompleteReadError as end:
                line = end.partial
            if not line:
                return
            yield line.decode(errors="replace").rstrip("\r\n")

    async def wait(self) -> int:
        """The exit code, negative for a signal; what else was in its group is ended then."""
        code = await self._process.wait()
        self.kill()
        self._is_over = True
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it and whatever is left of its group at once."""
        if not self._is_over:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Stop listening to what may still hold the pipe; `lines` ends then."""
        if self._pipe is not None:
            self._pipe.close()
