"""Becomes another program that the kernel kills when its parent dies, however that dies.

    python -I -S die_with_parent.py PARENT_PID PROGRAM ARGUMENT...

Between fork and exec no Python may run safely in a process with threads, hence a
program of its own; it imports next to nothing and takes some milliseconds.  The
kernel means the parent's thread that forked, so that has to be its main thread.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Does not return."""
    parent, program, arguments = int(sys.argv[1]), sys.argv[2], sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it died before the kernel was asked
        sys.exit("the parent is gone")
    try:
        os.execvp(program, arguments)  # noqa: S606  that is what it is for
    except OSError as error:
        sys.stderr.write(f"{program}: {error.strerror}\n")
        sys.exit(127)


if __name__ == "__main__":
    main()
