"""A network namespace with nothing but loopback, for this process and all that it starts.

Whoever listens on every interface in it listens on loopback alone.  It needs no
privilege where the kernel lets users make namespaces.  What shall be reached from
outside is listened on before: a socket belongs to the namespace that it was made in.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 0x1
_SETTINGS: Final = (
    "/proc/sys/user/max_user_namespaces",
    "/proc/sys/kernel/unprivileged_userns_clone",
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
)
"""What may forbid it, on one distribution or another."""


class IsolationError(Exception):
    """The machine does not let us."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"no network namespace: {problem}{_settings()}. --broker nats opens nothing beyond "
            "loopback either, and needs none"
        )


def enter(ports: Iterable[int]) -> list[socket.socket]:
    """Move into a new namespace; returns sockets that listen in the old one, on 127.0.0.1.

    The process must have one thread only, and cannot come back.

    Raises:
        OSError: a port is taken.
        IsolationError: the kernel refuses.
    """
    listeners = [socket.create_server(("127.0.0.1", port), backlog=128) for port in sorted(ports)]
    try:
        _unshare()
        _bring_loopback_up()
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _unshare() -> None:
    """A user namespace in which we are who we were, and a network namespace that it owns."""
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        raise IsolationError(os.strerror(ctypes.get_errno()))
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    except OSError as error:
        raise IsolationError(f"{error.filename}: {error.strerror}") from error


def _bring_loopback_up() -> None:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _IFF_UP))
    except OSError as error:
        raise IsolationError(f"loopback cannot be brought up: {error.strerror}") from error


def _settings() -> str:
    found = [(name, Path(name)) for name in _SETTINGS if Path(name).is_file()]
    told = ", ".join(f"{Path(name).name} {path.read_text().strip()}" for name, path in found)
    return f" ({told})" if told else ""
