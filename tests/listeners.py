"""Who listens where, as the kernel tells it."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_LISTENING = "0A"


def listeners(group: int) -> set[tuple[str, int]]:
    """Address and port of every TCP socket on which a process group listens."""
    sockets = set(_sockets(group))
    return {
        (_address(local.partition(":")[0]), int(local.partition(":")[2], 16))
        for table in ("tcp", "tcp6")
        for _, local, _, state, *_, inode in _entries(table)
        if state == _LISTENING and inode in sockets
    }


def _entries(table: str) -> Iterator[list[str]]:
    for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
        yield line.split()[:10]


def _sockets(group: int) -> Iterator[str]:
    """Inodes; processes and files may go while we look."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and _group_of(int(process.name)) == group:
            for file in (process / "fd").iterdir():
                with suppress(OSError):
                    kind, _, inode = str(file.readlink()).partition(":")
                    if kind == "socket":
                        yield inode.strip("[]")


def _group_of(pid: int) -> int | None:
    with suppress(OSError):
        return os.getpgid(pid)
    return None


def _address(text: str) -> str:
    """The kernel writes words of four bytes, each in the order of this machine."""
    words = (bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8))
    return str(ipaddress.ip_address(b"".join(words)))
