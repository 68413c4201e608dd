"""What a subscriber learns of a cache from its events alone, and the laws the events keep.

Every event is checked against what came before it; `resident` is what the cache
must hold if it says the truth.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from shepherd_events.block_hash import block_hash
from shepherd_events.events import (
    BlockHash,
    BlocksCleared,
    BlocksRemoved,
    BlocksReused,
    BlocksStored,
    Tier,
)
from shepherd_worker.engine.protocol import CacheEvent, SequenceFinished


class CacheReplica:
    """Replays cache events of one root; raises AssertionError where they break a law."""

    def __init__(self, root: BlockHash, block_size: int) -> None:
        self.resident: dict[int, int] = {}
        """Block hash to parent hash, whatever the tier."""
        self.on: dict[Tier, set[int]] = {tier: set() for tier in Tier}
        """The hashes on each tier."""
        self.tokens: dict[int, array[int]] = {}
        self.finished: list[SequenceFinished] = []
        self.reused: list[BlocksReused] = []
        self.removed: list[int] = []
        """What no tier holds any more."""
        self._parents: dict[int, int] = {}
        self._root = root
        self._block_size = block_size

    def apply(self, events: Iterable[CacheEvent]) -> None:
        for event in events:
            match event:
                case BlocksStored():
                    self._stored(event)
                case BlocksReused():
                    assert set(event.block_hashes) <= self.resident.keys()
                    self.reused.append(event)
                case BlocksRemoved():
                    self._removed(event)
                case SequenceFinished():
                    self._check_chain(event)
                    self.finished.append(event)
                case BlocksCleared():
                    raise AssertionError("no engine clears its cache")

    def text(self, event: SequenceFinished) -> list[int]:
        """All tokens of a finished sequence, from its chain and its tail."""
        return [*self._chain_tokens(event), *event.tail_token_ids]

    def _stored(self, event: BlocksStored) -> None:
        size = self._block_size
        parent = BlockHash(event.parent_hash or self._root)
        assert event.parent_hash is None or event.parent_hash in self.resident
        assert len(event.token_ids) == len(event.block_hashes) * size
        assert (event.start_block == 0) == (event.parent_hash is None)
        for index, stored in enumerate(event.block_hashes):
            tokens = event.token_ids[index * size : (index + 1) * size]
            assert stored == block_hash(parent, tokens)
            assert stored not in self.on[event.tier]
            assert stored not in self.resident or self.tokens[stored] == tokens
            self.on[event.tier].add(stored)
            self.resident[stored] = self._parents[stored] = parent
            self.tokens[stored] = tokens
            parent = BlockHash(stored)

    def _removed(self, event: BlocksRemoved) -> None:
        for gone in event.block_hashes:
            self.on[event.tier].remove(gone)
            if any(gone in hashes for hashes in self.on.values()):
                continue
            del self.resident[gone]
            assert gone not in self.resident.values(), "a parent was evicted before its child"
            self.removed.append(gone)

    def _check_chain(self, event: SequenceFinished) -> None:
        tokens = self._chain_tokens(event)

        assert event.last_block_hash is None or event.last_block_hash in self.resident
        assert len(tokens) == event.num_full_blocks * self._block_size
        assert len(tokens) + len(event.tail_token_ids) == (
            event.prompt_tokens + event.generated_tokens
        )

    def _chain_tokens(self, event: SequenceFinished) -> list[int]:
        blocks, block = [], event.last_block_hash
        while block is not None and block != self._root:
            blocks.append(self.tokens[block])
            block = BlockHash(self._parents[block])
        return [token for block_tokens in reversed(blocks) for token in block_tokens]
