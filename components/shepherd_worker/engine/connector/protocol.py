"""What every store of KV blocks promises.

The life of a store:

    1. `Factory(location, size_bytes)` checks that the location can be used.
    2. `open(fingerprint, block_bytes)`: once, when the model is known.
    3. `find`, `load`, `save`: from several threads at once; they may take their time.
    4. `close()`: no call is running any more.

A block that is missing, damaged, foreign or removed meanwhile is a miss, never
an error.  What cannot be done at all raises `OSError`: the caller counts it and
computes.  A store owns none of the memory it is given, and hands over what it
returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shepherd_events.events import BlockHash

Record = bytes | memoryview
"""The KV of one block, as `Runner.read_blocks` gives it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreCounters:
    """What a store did by itself; totals count from the start."""

    blocks_corrupt: int = 0
    """Blocks that were found but were not whole, or not what their name says."""
    blocks_evicted: int = 0
    """Blocks that this process removed to make room."""


class KvStore(Protocol):
    """See the module's docstring."""

    def open(self, fingerprint: bytes, block_bytes: int) -> None:
        """Serve records of `block_bytes` bytes that belong to the model of this fingerprint.

        Raises:
            StartError: the location has become unusable.
        """
        ...

    def find(self, hashes: Sequence[BlockHash]) -> list[bool]:
        """Which blocks of a chain are there; all of them count as used now, parents last.

        Raises:
            OSError: the store cannot be asked.
        """
        ...

    def load(self, hashes: Sequence[BlockHash]) -> list[Record]:
        """The records of the first blocks, up to the first one that cannot be had.

        Raises:
            OSError: the store cannot be read.
        """
        ...

    def save(self, block_hash: BlockHash, record: Record) -> bool:
        """Keep a record, and make room for it; False when it was there already.

        A reader never sees a part of it, whatever happens.

        Raises:
            OSError: the store cannot be written.
        """
        ...

    def counters(self) -> StoreCounters:
        """Cheap; from any thread."""
        ...

    def close(self) -> None:
        """Let go of everything; what was saved stays."""
        ...


class KvStoreFactory(Protocol):
    """What an entry point or `package.module:Factory` must be."""

    def __call__(self, location: str, size_bytes: int, /) -> KvStore:
        """Make a store that keeps at most `size_bytes` bytes at `location`.

        Raises:
            UnusableInputError: the location cannot be used; says what to do.
        """
        ...
