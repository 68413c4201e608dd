"""Host memory that other processes of the same user may look into.

A memfd, mapped writable here, then sealed: its size is fixed, and nobody can map
it writable any more.  Who is given its descriptor can read it and do nothing
else, and needs not fear that it shrinks underneath.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import weakref
from dataclasses import dataclass

_F_SEAL_FUTURE_WRITE = 0x10
"""Linux 5.1; Python names it from 3.13 on."""
FIXED_SIZE = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_SEALS = FIXED_SIZE | _F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class SharedMemory:
    """See the module's docstring."""

    memory: mmap.mmap
    """Zeroes at first."""
    fd: int
    """Closed when this object goes; the memory lives as long as somebody maps it."""

    @classmethod
    def allocate(cls, num_bytes: int, name: str) -> SharedMemory:
        """New memory, at least one byte.

        Raises:
            OSError: the system does not give it.
        """
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, num_bytes)
            memory = mmap.mmap(fd, num_bytes)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            os.close(fd)
            raise
        shared = cls(memory, fd)
        weakref.finalize(shared, os.close, fd)
        return shared


def map_readonly(fd: int) -> memoryview:
    """All bytes of somebody else's `SharedMemory`; unmapped when the last view is gone.

    Does not own `fd`.

    Raises:
        OSError: this is no memfd, or it may shrink: reading it could then end the process.
    """
    if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & FIXED_SIZE != FIXED_SIZE:
        raise OSError("the memory offered is not sealed against shrinking")
    return memoryview(mmap.mmap(fd, os.fstat(fd).st_size, prot=mmap.PROT_READ))
