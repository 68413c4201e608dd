"""Another process that is told what to do in lines of JSON, and may be stopped and killed."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
ANSWER_S = 30.0


class LineProcess:
    """Speaks one line for each that it hears, and one when it is ready."""

    def __init__(self, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | dict(env or {}),
        )
        self._heard = b""
        self.started: dict[str, Any] = self.hear()

    def ask(self, command: object) -> Any:
        """Give a command and wait for what it says."""
        self.tell(command)
        return self.hear()

    def tell(self, command: object) -> None:
        """Give a command; somebody has to `hear` the answer before the next one."""
        assert self.process.stdin is not None
        line = command if isinstance(command, str) else json.dumps(command)
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        """The next line; fails when it does not come, or the process ended."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + ANSWER_S
        while b"\n" not in self._heard:
            wait_s = max(0.0, deadline - time.monotonic())
            readable, _, _ = select.select([self.process.stdout], [], [], wait_s)
            assert readable, f"process {self.process.pid} did not answer"
            read = os.read(self.process.stdout.fileno(), 1 << 16)
            assert read, f"process {self.process.pid} ended: {self.process.wait()}"
            self._heard += read
        line, self._heard = self._heard.split(b"\n", 1)
        return json.loads(line)

    def stop(self) -> None:
        """Freeze it."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it run again."""
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Kill it, whatever it does, frozen or not."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                continue

    def rss_bytes(self) -> int:
        """Memory that it occupies now."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * _PAGE_BYTES

    def num_fds(self) -> int:
        """Files and sockets that it has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


def say(answer: object) -> None:
    """In the other process: answer one command."""
    print(json.dumps(answer), flush=True)
