"""Becomes another program in a network namespace with nothing but loopback.

    python -I -S into_namespace.py PROGRAM ARGUMENT...

Only a process with one thread may make a user namespace, and libraries start threads
when they are imported: hence a program of its own, that imports next to nothing.  In
the user namespace we are who we were.  Ends with 3 where the kernel refuses.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys
from typing import NoReturn

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1
SETTINGS = (
    "/proc/sys/user/max_user_namespaces",
    "/proc/sys/kernel/unprivileged_userns_clone",
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
)
"""What may forbid it, on one distribution or another."""


def main() -> None:
    """Does not return."""
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        refuse(os.strerror(ctypes.get_errno()))
    try:
        tell("/proc/self/setgroups", "deny")
        tell("/proc/self/uid_map", f"{user} {user} 1")
        tell("/proc/self/gid_map", f"{group} {group} 1")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP))
        os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606  that is what it is for
    except OSError as error:
        refuse(f"{error.filename or 'loopback'}: {error.strerror}")


def tell(path: str, text: str) -> None:
    """Write a file of the kernel's."""
    with open(path, "w", encoding="ascii") as file:  # noqa: PTH123  pathlib takes long to import
        file.write(text)


def refuse(problem: str) -> NoReturn:
    """Say what the kernel does not allow, and what to do instead."""
    found = []
    for path in SETTINGS:
        try:
            with open(path, encoding="ascii") as file:  # noqa: PTH123  as above
                found.append(f"{path} is {file.read().strip()}")
        except OSError:
            continue
    sys.stderr.write(
        f"shepherd up: --isolate: no network namespace: {problem} ({', '.join(found)}); "
        "--broker nats opens nothing beyond loopback either\n"
    )
    sys.exit(3)


if __name__ == "__main__":
    main()
