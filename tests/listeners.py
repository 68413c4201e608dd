"""Who listens where, as the kernel tells it."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from shepherd_cli.supervisor import into_namespace

_LISTENING = "0A"
INTO_NAMESPACE = (sys.executable, "-I", "-S", into_namespace.__file__)


@cache
def why_no_namespace() -> str:
    """Why this machine lets nobody make a network namespace; empty where it does."""
    argv = [*INTO_NAMESPACE, "true"]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stderr.strip()


def listeners(group: int, tables: str = "/proc/net") -> set[tuple[str, int]]:
    """Address and port of every TCP socket on which a process group listens.

    `tables` are those of a network namespace: ours, or `/proc/PID/net`.
    """
    sockets = set(_sockets(group))
    return {
        (_address(local.partition(":")[0]), int(local.partition(":")[2], 16))
        for table in ("tcp", "tcp6")
        for _, local, _, state, *_, inode in _entries(f"{tables}/{table}")
        if state == _LISTENING and inode in sockets
    }


def _entries(table: str) -> Iterator[list[str]]:
    for line in Path(table).read_text().splitlines()[1:]:
        yield line.split()[:10]


def _sockets(group: int) -> Iterator[str]:
    """Inodes; processes and files may go while we look, and the `su` that began us is not ours."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and _group_of(int(process.name)) == group:
            for file in _files(process):
                with suppress(OSError):
                    kind, _, inode = str(file.readlink()).partition(":")
                    if kind == "socket":
                        yield inode.strip("[]")


def _files(process: Path) -> list[Path]:
    try:
        return list((process / "fd").iterdir())
    except (FileNotFoundError, PermissionError):
        return []


def _group_of(pid: int) -> int | None:
    with suppress(OSError):
        return os.getpgid(pid)
    return None


def _address(text: str) -> str:
    """The kernel writes words of four bytes, each in the order of this machine."""
    words = (bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8))
    return str(ipaddress.ip_address(b"".join(words)))
