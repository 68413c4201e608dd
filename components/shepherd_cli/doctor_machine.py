"""A machine, as far as the doctor looks at it; the only part of the doctor that touches one."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

COMMAND_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 2.0


class Machine(Protocol):
    """What can be asked of a machine; nothing here changes it."""

    @property
    def python(self) -> str:
        """Major and minor of the interpreter, as in "3.12"."""
        ...

    def run(self, *argv: str) -> str | None:
        """What a command prints; None where it is missing or fails."""
        ...

    def package(self, name: str) -> str | None:
        """The version of an installed distribution."""
        ...

    def requirements(self, name: str) -> list[str]:
        """What an installed distribution needs, as it says itself."""
        ...

    def library(self, name: str) -> bool:
        """Whether the loader finds a shared library."""
        ...

    def free_bytes(self, path: str) -> int | None:
        """Free space of a file system; None where there is no such path."""
        ...

    def is_free(self, port: int) -> bool:
        """Whether a loopback TCP port can be listened on."""
        ...

    def answers(self, host: str, port: int) -> bool:
        """Whether somebody accepts a TCP connection."""
        ...


@dataclass(frozen=True, slots=True)
class ThisMachine:
    """The machine that runs this process."""

    python: str = f"{sys.version_info.major}.{sys.version_info.minor}"

    def run(self, *argv: str) -> str | None:
        """See `Machine.run`."""
        if shutil.which(argv[0]) is None:
            return None
        with suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(  # noqa: S603 - fixed commands, no shell
                argv, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=True
            )
            return done.stdout.strip()
        return None

    def package(self, name: str) -> str | None:
        """See `Machine.package`."""
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
        return None

    def requirements(self, name: str) -> list[str]:
        """See `Machine.requirements`."""
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.requires(name) or []
        return []

    def library(self, name: str) -> bool:
        """See `Machine.library`; looks at the loader's cache, loads nothing."""
        cache = self.run("ldconfig", "-p") or self.run("/sbin/ldconfig", "-p") or ""
        paths = os.environ.get("LD_LIBRARY_PATH", "").split(":")
        return name in cache or any((Path(path) / name).exists() for path in paths if path)

    def free_bytes(self, path: str) -> int | None:
        """See `Machine.free_bytes`."""
        return shutil.disk_usage(path).free if Path(path).is_dir() else None

    def is_free(self, port: int) -> bool:
        """See `Machine.is_free`."""
        with suppress(OSError):
            socket.create_server(("127.0.0.1", port)).close()
            return True
        return False

    def answers(self, host: str, port: int) -> bool:
        """See `Machine.answers`."""
        with suppress(OSError):
            socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S).close()
            return True
        return False
