"""Which live turns lose their KV when blocks are gone.

A turn is *placed* where the newest request that contained it left its blocks.
It is *evicted* when at least one of them is held by no tier of no worker, or
when it has none: its KV cannot be served any more.  Whether an evicted turn is
archived (the newest of a session is not) is the consumer's business.

After a restart a store may be ahead of the block index, which replays from an
older position: a turn whose placement the index has not seen yet is *ahead*
and cannot be judged until its stream has come that far, or has ended.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from shepherd_events.events import StreamId
from shepherd_events.stream_cursor import Position


class TurnKey(NamedTuple):
    """One turn of one tenant."""

    tenant: str
    archive_id: str


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a turn's KV was left, and by which frame this became known."""

    stream: StreamId
    position: Position
    started_unix_ns: int
    """When the request began; a placement by an earlier one never replaces a later one's."""
    block_hashes: array[int]


def is_evicted(placement: Placement, resident: Container[int]) -> bool:
    """Whether a turn's KV can no longer be served."""
    return not placement.block_hashes or not all(
        block_hash in resident for block_hash in placement.block_hashes
    )


class EvictionWatch:
    """Live turns by the blocks they wait on, and those that are ahead of the index."""

    def __init__(self) -> None:
        self._blocks: dict[TurnKey, array[int]] = {}
        self._waiting: dict[int, tuple[TurnKey, ...]] = {}
        self._ahead: defaultdict[StreamId, dict[TurnKey, Position]] = defaultdict(dict)

    def __len__(self) -> int:
        return len(self._blocks)

    def watch(self, key: TurnKey, block_hashes: array[int]) -> None:
        """Wait for a turn's blocks; replaces what was waited for before."""
        if self._blocks.get(key) == block_hashes:
            return
        self.drop(key)
        self._blocks[key] = block_hashes
        alone = (key,)  # One object for all blocks that no other turn waits on.
        for block_hash in block_hashes:
            others = self._waiting.get(block_hash)
            self._waiting[block_hash] = (*others, key) if others else alone

    def drop(self, key: TurnKey) -> None:
        """Stop waiting for a turn; it may be unknown."""
        for block_hash in self._blocks.pop(key, ()):
            others = tuple(other for other in self._waiting[block_hash] if other != key)
            if others:
                self._waiting[block_hash] = others
            else:
                del self._waiting[block_hash]

    def waiting_on(self, gone: Iterable[int]) -> set[TurnKey]:
        """The turns that lose a block."""
        return {key for block_hash in gone for key in self._waiting.get(block_hash, ())}

    def hold_back(self, key: TurnKey, placement: Placement) -> None:
        """Do not judge a turn before its stream has come to its placement."""
        self._ahead[placement.stream][key] = placement.position

    def release(self, stream: StreamId, reached: Position | None) -> set[TurnKey]:
        """The turns that can be judged now that a stream came to a position, or with None ended."""
        waiting = self._ahead.get(stream)
        if not waiting:
            return set()
        ready = {key for key, at in waiting.items() if reached is None or at <= reached}
        for key in ready:
            del waiting[key]
        return ready

    def is_ahead(self, key: TurnKey, placement: Placement) -> bool:
        """Whether a turn is still held back."""
        return key in self._ahead.get(placement.stream, {})

    def streams_ahead(self) -> set[StreamId]:
        """The streams that turns are held back for."""
        return {stream for stream, waiting in self._ahead.items() if waiting}

    def check(self) -> None:
        """Conservation: a turn waits on exactly the blocks that know of it.

        Raises:
            AssertionError: the law is broken.
        """
        forward = {(key, block) for key, blocks in self._blocks.items() for block in blocks}
        backward = {(key, block) for block, keys in self._waiting.items() for key in keys}
        assert forward == backward, "the two directions of the watch differ"
