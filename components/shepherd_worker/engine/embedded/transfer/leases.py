r"""Which records wait to be fetched, and who must be told when they need wait no longer.

    offer -> waiting --claim--> fetching --end--> gone, released
                \--- expire / end -----------------> gone, released

Pure state, for any thread.  A lease is claimed at most once, and `release` is
called exactly once.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol


class Source(Protocol):
    """Records of one size, in order; they do not change while they are leased."""

    @property
    def fingerprint(self) -> bytes:
        """32 bytes: what the records mean."""
        ...

    @property
    def record_bytes(self) -> int:
        """Size of one record."""
        ...

    @property
    def num_records(self) -> int:
        """How many there are."""
        ...

    def read(self, first: int, count: int) -> Sequence[memoryview]:
        """Records [first, first + count), one after the other in one or more buffers; any thread."""
        ...

    def offsets(self, first: int, count: int) -> Sequence[int] | None:
        """Where they begin in the worker's shared region; None when they do not lie there."""
        ...


@dataclass(frozen=True, slots=True)
class ByteSource:
    """Any bytes, as records of one byte."""

    fingerprint: bytes
    buffers: Sequence[memoryview]
    record_bytes: int = field(default=1, init=False)

    @property
    def num_records(self) -> int:
        """See `Source.num_records`."""
        return sum(len(buffer) for buffer in self.buffers)

    def read(self, first: int, count: int) -> Sequence[memoryview]:
        """See `Source.read`."""
        parts, stop = list[memoryview](), first + count
        start = 0
        for buffer in self.buffers:
            low, high = max(first - start, 0), min(stop - start, len(buffer))
            if low < high:
                parts.append(buffer[low:high])
            start += len(buffer)
        return parts

    def offsets(self, first: int, count: int) -> Sequence[int] | None:  # noqa: ARG002 - Source's
        """See `Source.offsets`."""
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Lease:
    """Records that somebody may fetch."""

    source: Source
    release: Callable[[], None]


class Leases:
    """See the module's docstring."""

    def __init__(self) -> None:
        self.expired_total = 0
        self._lock = threading.Lock()
        self._waiting: dict[bytes, Lease] = {}
        self._fetching: dict[bytes, Lease] = {}

    def __len__(self) -> int:
        """Leases whose records are still held."""
        with self._lock:
            return len(self._waiting) + len(self._fetching)

    def offer(self, source: Source, release: Callable[[], None]) -> bytes:
        """Hold records; the id under which they can be claimed, 128 random bits."""
        transfer_id = secrets.token_bytes(16)
        with self._lock:
            self._waiting[transfer_id] = Lease(source, release)
        return transfer_id

    def claim(self, transfer_id: bytes) -> Lease | None:
        """Take a waiting lease; `end` must follow."""
        with self._lock:
            lease = self._waiting.pop(transfer_id, None)
            if lease is not None:
                self._fetching[transfer_id] = lease
            return lease

    def end(self, transfer_id: bytes) -> None:
        """Release a lease, claimed or not; without effect the second time."""
        with self._lock:
            lease = self._fetching.pop(transfer_id, None) or self._waiting.pop(transfer_id, None)
        if lease is not None:
            lease.release()

    def expire(self, transfer_id: bytes) -> bool:
        """Release a lease unless it was claimed; whether it was waiting."""
        with self._lock:
            lease = self._waiting.pop(transfer_id, None)
            self.expired_total += lease is not None
        if lease is not None:
            lease.release()
        return lease is not None

    def end_all(self) -> None:
        """Release every lease."""
        with self._lock:
            transfer_ids = (*self._waiting, *self._fetching)
        for transfer_id in transfer_ids:
            self.end(transfer_id)

    def __repr__(self) -> str:
        return f"<Leases {len(self._waiting)} waiting, {len(self._fetching)} fetching>"
