"""TensorRT-LLM's cache events: read, told apart by rank, checked for gaps.

Knows their dictionaries and nothing of ours.  Block hashes are integers, signed
or not, or hexadecimal strings, by version; here they are opaque names.  Numbers
count per attention rank: a gap means that the engine discarded events that we
were too slow to take, a number that goes back means that it started anew.  Of
several window sizes only the largest is told: its blocks hold every token.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

log = logging.getLogger(__name__)

BlockName = int | str
"""What the engine calls a block: an unsigned integer, or hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """One block of a run; fewer tokens than the block size make it partial."""

    name: BlockName
    token_ids: array[int]
    cache_salt: str | None
    """Empty where there is none; None where this version does not tell."""
    has_media: bool
    level: int
    """0 is the device, 1 the host."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A run of one chain."""

    parent: BlockName | None
    blocks: tuple[StoredBlock, ...]


@dataclass(frozen=True, slots=True)
class Removed:
    """Blocks that no level holds any more."""

    names: tuple[BlockName, ...]


@dataclass(frozen=True, slots=True)
class Moved:
    """A block went to another level."""

    name: BlockName
    old_level: int
    new_level: int


@dataclass(frozen=True, slots=True)
class Lost:
    """Events are missing, or the engine began anew: what it holds is not known any more."""

    num_events: int
    """0 where it began anew."""


KvEvent = Stored | Removed | Moved | Lost


class EventReader:
    """Reads the dictionaries of one engine, in the order in which it gave them."""

    def __init__(self, num_ranks: int = 1, vocab_size: int = 2**32) -> None:
        """The engine writes tokens beyond the vocabulary for an image, also where it says no more."""
        self._num_ranks = num_ranks
        self._vocab_size = vocab_size
        self.num_unknown = 0
        """Events of a kind or form that is not known here."""
        self.num_blocks: dict[int, tuple[int, ...]] = {}
        """Blocks of each level, by rank; empty until the engine has told."""
        self._expected: dict[int, int] = {}
        self._largest_window = 0

    def read(self, events: Iterable[dict[str, Any]]) -> Iterator[tuple[int, KvEvent]]:
        """Each event with its attention rank."""
        for event in events:
            if not event:
                continue
            rank = event.get("attention_dp_rank") or 0
            if not 0 <= rank < self._num_ranks:
                self.num_unknown += 1
                log.warning("an event of rank %s of %d of TensorRT-LLM", rank, self._num_ranks)
                continue
            lost = self._count(rank, event.get("event_id"))
            if lost is not None:
                yield rank, lost
            read = self._read(rank, event)
            if read is not None:
                yield rank, read

    def _count(self, rank: int, number: Any) -> Lost | None:
        """The first event that is seen may have any number: 'created' may be long gone."""
        if not isinstance(number, int):
            return None
        expected = self._expected.get(rank)
        self._expected[rank] = number + 1
        if expected is None or number == expected:
            return Lost(number) if expected is None and number > 0 else None
        return Lost(max(0, number - expected))

    def _read(self, rank: int, event: dict[str, Any]) -> KvEvent | None:
        data, window = event.get("data") or {}, event.get("window_size") or 0
        kind = data.get("type")
        if kind == "created":
            if window >= self._largest_window:
                self._largest_window = window
                self.num_blocks[rank] = tuple(data.get("num_blocks_per_cache_level") or ())
            return None
        if window < self._largest_window:
            return None
        try:
            if kind == "stored":
                return self._stored(data)
            return _READERS[str(kind)](data)
        except (KeyError, TypeError, ValueError) as error:
            self.num_unknown += 1
            log.warning("an event of type %s of TensorRT-LLM cannot be read: %r", kind, error)
            return None

    def _stored(self, data: dict[str, Any]) -> Stored:
        parent = data["parent_hash"]
        return Stored(
            None if parent is None else name_of(parent),
            tuple(self._stored_block(block) for block in data["blocks"]),
        )

    def _stored_block(self, block: dict[str, Any]) -> StoredBlock:
        token_ids = array("I", [token["token_id"] for token in block["tokens"]])
        return StoredBlock(
            name=name_of(block["block_hash"]),
            token_ids=token_ids,
            cache_salt=(block["cache_salt"] or "") if "cache_salt" in block else None,
            has_media=bool(block.get("mm_keys")) or max(token_ids, default=0) >= self._vocab_size,
            level=block.get("cache_level") or 0,
        )


def name_of(block_hash: Any) -> BlockName:
    """The name behind a hash in any of its forms.

    Raises:
        TypeError: it is neither a number nor text.
    """
    if isinstance(block_hash, int):
        return block_hash % 2**64
    if isinstance(block_hash, str):
        return block_hash.lower().removeprefix("0x")
    raise TypeError(f"a block hash of type {type(block_hash).__name__}")


def _removed(data: dict[str, Any]) -> Removed:
    return Removed(tuple(name_of(each) for each in data["block_hashes"]))


def _updated(data: dict[str, Any]) -> Moved | None:
    """Changes of priority alone are not told."""
    change = data.get("cache_level")
    if change is None or change["old_value"] == change["new_value"]:
        return None
    return Moved(name_of(data["block_hash"]), change["old_value"], change["new_value"])


_READERS: dict[str, Callable[[dict[str, Any]], KvEvent | None]] = {
    "removed": _removed,
    "updated": _updated,
}
