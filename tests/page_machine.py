"""The machine of somebody who follows the pages: a directory, a shell, processes that go on.

Pages name the default ports.  Here each of them stands for a free one: in what is
typed, in the options that are not typed, and, the other way round, in what comes
back.  Everything else is as the page has it.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

from page_blocks import Block, Typed, pattern_of, typed_in
from shepherd_cli.stack import free_port

ROOT = Path(__file__).parent.parent
PORTS = (8000, 8080, 8081, 8765, 8766, 9090, 9091, 9092, 9093, 5557, 5558, 5600)
START_S = 120.0
COMMAND_S = 90.0
_READY = {
    "dynamo.frontend": ("--http-port", 8000, "/v1/models"),
    "shepherd_worker": ("--system-port", 0, "/health"),
    "shepherd_memory": ("--http-port", 8765, "/live"),
    "shepherd_gateway": ("--http-port", 8080, "/live"),
}
"""By module: the option with its port, the port without it, and where it says that it is ready."""
_CONFIG = """\
[memory]
http_port = 8765
admin_port = 8766
[gateway]
http_port = 8080
admin_port = 8081
"""


class PageFailedError(AssertionError):
    """A command of a page did not do what the page says."""


class Machine:
    """One reader's machine; `close` ends whatever still runs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._ports = {port: free_port() for port in PORTS}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._shell: _Shell | None = None
        for entry in ROOT.iterdir():
            if not entry.name.startswith(".") and entry.name != "build":
                (directory / entry.name).symlink_to(entry)
        config = directory / ".shepherd.toml"
        config.write_text(self._here(_CONFIG))
        self._env = _plain_environment() | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "components"),
            "SHEPHERD_CONFIG": str(config),
            "SHEPHERD_ENGINE": "torch",
            "SHEPHERD_MEMORY_URL": self._here("http://127.0.0.1:8765"),
            "SHEPHERD_MEMORY_ADMIN_URL": self._here("http://127.0.0.1:8766"),
            "DYN_HTTP_HOST": "127.0.0.1",
            "DYN_HTTP_PORT": self._here("8000"),
            "DYN_FILE_KV": str(directory / ".discovery"),
            "DYN_DISCOVERY_BACKEND": "file",
            "DYN_SYSTEM_HOST": "127.0.0.1",
            "DYN_TCP_RPC_HOST": "127.0.0.1",
            "DYN_TCP_RESPONSE_STREAM_HOST": "lo",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "120",
        }
        self.turn_page()

    def turn_page(self) -> None:
        """Go on in a shell that has heard of nothing yet."""
        if self._shell is not None:
            self._shell.close()
        self._shell = _Shell(self.directory, self._env)

    def follow(self, block: Block) -> None:
        """Do what a block says.

        Raises:
            PageFailedError: something came of it that the page does not say.
        """
        if block.language == "python":
            program = self.directory / f".{Path(block.page).stem}-{block.line}.py"
            program.write_text(self._here(block.text))
            self._type(block, Typed(f"python {program.name}", ""))
        elif block.language == "bash":
            self._type(block, Typed(f"set -e\n{block.text}", ""))
        else:
            for typed in typed_in(block):
                checked = block.mark == "only checked"
                self._type(block, Typed(_checking(typed.command), "") if checked else typed)

    def close(self) -> None:
        """End everything that was started, the latest first."""
        self._shell.close()
        for process in reversed(self._running.values()):
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _type(self, block: Block, typed: Typed) -> None:
        command = self._here(typed.command)
        bare = _without_comment(command)
        if bare.endswith("&"):
            self._start(block, bare.removesuffix("&").rstrip())
        elif typed.shown.endswith("^C\n"):
            self._interrupted(block, command, pattern_of(typed.shown))
        else:
            status, output = self._shell.run(command)
            _expect(block, command, status == 0, f"it ended with {status}", output)
            told = self._there("".join(f"{line.rstrip()}\n" for line in output.splitlines()))
            fits = not typed.shown or pattern_of(typed.shown).fullmatch(told)
            _expect(block, command, bool(fits), f"the page shows\n{typed.shown}", told)

    def _start(self, block: Block, command: str) -> None:
        """Start what goes on, unless a page before has; wait until it is ready."""
        if command in self._running and self._running[command].poll() is None:
            return
        log = self.directory / f".log-{len(self._running)}"
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=self.directory,
                env=self._shell.environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        self._running[command] = process
        url = self._ready_url(command)
        deadline = time.monotonic() + START_S
        while not _answers(url):
            alive = process.poll() is None and time.monotonic() < deadline
            _expect(block, command, alive, "it did not become ready", log.read_text())
            time.sleep(0.1)

    def _ready_url(self, command: str) -> str:
        words = shlex.split(command)
        option, port, path = next(found for name, found in _READY.items() if name in command)
        if option in words:
            port = int(words[words.index(option) + 1])
        elif port:
            port = self._ports[port]
        else:
            raise PageFailedError(f"{command}: name its {option}, by which it is seen to be ready")
        return f"http://127.0.0.1:{port}{path}"

    def _interrupted(self, block: Block, command: str, pattern: re.Pattern[str]) -> None:
        """Run until the page's lines have come, then press Ctrl-C."""
        log = self.directory / ".interrupted"
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["bash", "-c", command],
                cwd=self.directory,
                env=self._shell.environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        deadline = time.monotonic() + COMMAND_S
        try:
            while not pattern.match(self._there(log.read_text())):
                alive = process.poll() is None and time.monotonic() < deadline
                _expect(block, command, alive, f"the page shows {pattern.pattern}", log.read_text())
                time.sleep(0.05)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            process.wait(20)

    def _here(self, text: str) -> str:
        return re.sub(r"\b\d{4}\b", lambda m: str(self._ports.get(int(m[0]), m[0])), text)

    def _there(self, text: str) -> str:
        by_port = {str(here): str(port) for port, here in self._ports.items()}
        return re.sub(r"\b\d{4,5}\b", lambda m: by_port.get(m[0], m[0]), text)


class _Shell:
    """A bash that remembers what was exported and defined."""

    _END = "--end-of-command--"

    def __init__(self, directory: Path, env: dict[str, str]) -> None:
        self._directory = directory
        self._bash = subprocess.Popen(
            ["bash"],
            cwd=directory,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, command: str) -> tuple[int, str]:
        """Exit status and output; what takes too long is killed, the shell with it."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.write(
            f"{{ {command}\n}} </dev/null\nprintf '\\n%s %s\\n' {self._END} $?\n"
        )
        self._bash.stdin.flush()
        patience = threading.Timer(COMMAND_S, self._kill)
        patience.start()
        output = ""
        for line in self._bash.stdout:
            if line.startswith(self._END):
                patience.cancel()
                return int(line.split()[1]), output.removesuffix("\n")
            output += line
        return -signal.SIGKILL, output

    def environment(self) -> dict[str, str]:
        """What commands find in their environment now."""
        self.run("env -0 > .environment")
        entries = (self._directory / ".environment").read_text().split("\0")
        return dict(entry.split("=", 1) for entry in entries if entry)

    def close(self) -> None:
        """End the shell and what it started."""
        self._kill()
        self._bash.communicate()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._bash.pid, signal.SIGKILL)


def _plain_environment() -> dict[str, str]:
    """Ours, without what configures any part of the system."""
    parts = ("SHEPHERD_", "DYN_", "OTEL_", "NATS_", "ETCD_")
    return {name: value for name, value in os.environ.items() if not name.startswith(parts)}


def _checking(command: str) -> str:
    return _without_comment(command).removesuffix("&") + " --check"


def _without_comment(command: str) -> str:
    return re.sub(r"\s+#\s.*\Z", "", command).rstrip()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _expect(block: Block, command: str, holds: bool, problem: str, output: str) -> None:
    if not holds:
        raise PageFailedError(f"{block}\n$ {command}\n{output}\n{problem}")
