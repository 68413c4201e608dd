"""Starts this program anew in a network namespace with nothing but loopback.

Whoever listens on every interface in it listens on loopback alone.  What shall be
reached from outside is listened on before, and the sockets are handed over: a socket
belongs to the namespace that it was made in.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterable, MutableMapping, Sequence
from pathlib import Path
from typing import Final, NoReturn

from shepherd_cli.supervisor import into_namespace

_HANDED_OVER: Final = "SHEPHERD_UP_LISTENERS"
"""File descriptors; only between a program and itself."""


def handed_over(environ: MutableMapping[str, str]) -> list[socket.socket] | None:
    """The sockets that were listened on outside; None where this is outside."""
    told = environ.pop(_HANDED_OVER, None)
    if told is None:
        return None
    return [socket.socket(fileno=int(number)) for number in told.split(",")]


def start_anew(ports: Iterable[int], command: Sequence[str]) -> NoReturn:
    """Become `python -m COMMAND...` within, listening on these ports of 127.0.0.1 without.

    Raises:
        OSError: a port is taken.
    """
    listeners = [socket.create_server(("127.0.0.1", port), backlog=128) for port in ports]
    for listener in listeners:
        listener.set_inheritable(True)
    told = ",".join(str(listener.fileno()) for listener in listeners)
    into = ("-I", "-S", str(Path(into_namespace.__file__)))
    argv = [sys.executable, *into, sys.executable, "-m", *command]
    os.execve(sys.executable, argv, os.environ | {_HANDED_OVER: told})  # noqa: S606  ourselves
