"""Which block lives where, and which tokens it holds.

A block is *resident* while at least one tier of one worker holds it; when the
last holder lets go it is *gone*, and the index forgets it with its tokens.
Knows nothing of turns, sessions, files or clocks.

    holders of a block     stored(s, t)         removed(s, t)          forget(s)
    ------------------     ------------         -------------          ---------
    none (unknown)         resident  (new)      -                      -
    {(s, t)}               -                    gone                   gone
    {(s, t), others}       -                    resident               resident

Every mutator returns the hashes that changed sides: `stored` those that became
resident, the others those that are gone.  `take_touched` says which records
differ from what was last taken, for whoever keeps a copy.

Holders are one bit each, so that a block costs an integer and not a set.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from shepherd_events.events import BlockHash, BlocksStored, StreamId, Tier, TierState

Holder = tuple[StreamId, Tier]


@dataclass(slots=True)
class _Block:
    parent: BlockHash | None
    start: int
    tokens: bytes
    holders: int


@dataclass(frozen=True, slots=True)
class BlockRecord:
    """One resident block as it is kept on disk."""

    block_hash: BlockHash
    parent: BlockHash | None
    start: int
    """Position in its sequence, in blocks, from 0."""
    tokens: bytes
    """Token ids as the bytes of an `array("I")`; empty where the publisher keeps them secret."""
    holders: frozenset[Holder]


@dataclass(frozen=True, slots=True)
class Chain:
    """The known end of a sequence: its full blocks in order."""

    block_hashes: array[int]
    token_ids: array[int]
    block_size: int
    """0 where no block is known."""
    complete: bool
    """Whether the blocks reach back to the root."""


class BlockIndex:
    """Block hash -> holders, parent, tokens."""

    def __init__(self) -> None:
        self._blocks: dict[BlockHash, _Block] = {}
        self._holders: list[Holder | None] = []
        self._counts: list[int] = []
        self._xors: list[int] = []
        self._touched: set[BlockHash] = set()

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, block_hash: object) -> bool:
        return block_hash in self._blocks

    def stored(self, stream: StreamId, run: BlocksStored) -> list[BlockHash]:
        """Note that a run lies on a tier of `stream` now; returns what was not resident before.

        Raises:
            ValueError: the tokens do not divide into the run's blocks; nothing has changed.
        """
        hashes = [BlockHash(block_hash) for block_hash in run.block_hashes]
        num_bytes = _bytes_per_block(run, len(hashes))
        tokens = run.token_ids.tobytes()
        bit = self._bit((stream, run.tier))
        appeared = []
        parent = run.parent_hash
        for position, block_hash in enumerate(hashes):
            own = tokens[position * num_bytes : (position + 1) * num_bytes]
            block = self._blocks.get(block_hash)
            if block is None:
                block = _Block(parent, run.start_block + position, own, 0)
                self._blocks[block_hash] = block
                appeared.append(block_hash)
            elif own and not block.tokens:
                block.tokens = own
                self._touched.add(block_hash)
            self._hold(block_hash, block, bit)
            parent = block_hash
        return appeared

    def removed(self, stream: StreamId, tier: Tier, block_hashes: Iterable[int]) -> list[BlockHash]:
        """Note that blocks left a tier; returns those that are gone."""
        bit = self._known_bit((stream, tier))
        if bit is None:
            return []
        return [
            block_hash
            for block_hash in map(BlockHash, block_hashes)
            if self._let_go(block_hash, bit)
        ]

    def cleared(self, stream: StreamId, tier: Tier | None) -> list[BlockHash]:
        """Note that a tier was emptied, or with None every tier; returns those that are gone."""
        return [
            block_hash
            for bit, block_hash in self._held_by(stream, tier)
            if self._let_go(block_hash, bit)
        ]

    def forget(self, stream: StreamId) -> list[BlockHash]:
        """Note that a stream ended; returns the blocks that are gone with it."""
        gone = self.cleared(stream, None)
        for bit, holder in enumerate(self._holders):
            if holder is not None and holder[0] == stream:
                self._holders[bit] = None
        return gone

    def replace(self, stream: StreamId, runs: Iterable[BlocksStored]) -> list[BlockHash]:
        """Put a snapshot in the place of all that was known of a stream; returns what is gone.

        Tokens that the snapshot leaves out and that were known stay known.

        Raises:
            ValueError: as `stored`; the runs before the wrong one have been applied.
        """
        held_before = self._held_by(stream, None)
        shown: set[tuple[int, int]] = set()
        for run in runs:
            self.stored(stream, run)
            bit = self._bit((stream, run.tier))
            shown.update((bit, block_hash) for block_hash in run.block_hashes)
        return [
            block_hash
            for bit, block_hash in held_before
            if (bit, block_hash) not in shown and self._let_go(block_hash, bit)
        ]

    def chain(self, last: BlockHash | None) -> Chain:
        """The blocks that end in `last`, as far back as they and their tokens are known."""
        hashes: list[BlockHash] = []
        parts: list[bytes] = []
        block_hash = last
        while block_hash is not None:
            block = self._blocks.get(block_hash)
            if block is None or not block.tokens:
                break
            hashes.append(block_hash)
            parts.append(block.tokens)
            block_hash = block.parent
        token_ids = array("I")
        token_ids.frombytes(b"".join(reversed(parts)))
        return Chain(
            block_hashes=array("Q", reversed(hashes)),
            token_ids=token_ids,
            block_size=len(token_ids) // len(hashes) if hashes else 0,
            complete=block_hash is None,
        )

    def holders(self, block_hash: int) -> frozenset[Holder]:
        """Where a block lies; empty when it is gone or was never known."""
        block = self._blocks.get(BlockHash(block_hash))
        return frozenset(self._named(block.holders)) if block else frozenset()

    def resident(self) -> dict[Holder, int]:
        """Number of blocks per stream and tier."""
        return {
            holder: self._counts[bit]
            for bit, holder in enumerate(self._holders)
            if holder is not None and self._counts[bit]
        }

    def digests(self) -> dict[StreamId, tuple[TierState, ...]]:
        """What each stream holds, as its publisher's heartbeats say it."""
        states: dict[StreamId, list[TierState]] = {}
        for bit, holder in enumerate(self._holders):
            if holder is not None and self._counts[bit]:
                stream, tier = holder
                state = TierState(tier, self._counts[bit], self._xors[bit])
                states.setdefault(stream, []).append(state)
        return {
            stream: tuple(sorted(tiers, key=lambda state: state.tier))
            for stream, tiers in states.items()
        }

    def restore(self, record: BlockRecord) -> None:
        """Take back a record that was kept on disk; counts as untouched."""
        block = _Block(record.parent, record.start, record.tokens, 0)
        self._blocks[record.block_hash] = block
        for holder in record.holders:
            self._hold(record.block_hash, block, self._bit(holder))
        self._touched.discard(record.block_hash)

    def record(self, block_hash: BlockHash) -> BlockRecord | None:
        """What to keep on disk of a block; None when it is gone."""
        block = self._blocks.get(block_hash)
        if block is None:
            return None
        holders = frozenset(self._named(block.holders))
        return BlockRecord(block_hash, block.parent, block.start, block.tokens, holders)

    def take_touched(self) -> set[BlockHash]:
        """The blocks whose records changed since the last call."""
        touched, self._touched = self._touched, set()
        return touched

    def check(self) -> None:
        """Conservation: every block has a holder; counts and digests are those of the holders' bits.

        Raises:
            AssertionError: the law is broken.
        """
        counts = [0] * len(self._holders)
        xors = [0] * len(self._holders)
        for block_hash, block in self._blocks.items():
            assert block.holders, "a block without a holder must have been forgotten"
            for bit in _bits(block.holders):
                assert self._holders[bit] is not None, "a block is held by a forgotten stream"
                counts[bit] += 1
                xors[bit] ^= block_hash
        assert xors == self._xors, "a digest is not that of its blocks"
        assert counts == self._counts, f"{counts} blocks are held, {self._counts} were counted"

    def _hold(self, block_hash: BlockHash, block: _Block, bit: int) -> None:
        if not block.holders >> bit & 1:
            block.holders |= 1 << bit
            self._counts[bit] += 1
            self._xors[bit] ^= block_hash
            self._touched.add(block_hash)

    def _let_go(self, block_hash: BlockHash, bit: int) -> bool:
        """Take one holder from a block; says whether the block is gone thereby."""
        block = self._blocks.get(block_hash)
        if block is None or not block.holders >> bit & 1:
            return False
        block.holders &= ~(1 << bit)
        self._counts[bit] -= 1
        self._xors[bit] ^= block_hash
        self._touched.add(block_hash)
        if not block.holders:
            del self._blocks[block_hash]
        return not block.holders

    def _bit(self, holder: Holder) -> int:
        bit = self._known_bit(holder)
        if bit is not None:
            return bit
        if None in self._holders:
            bit = self._holders.index(None)
            self._holders[bit] = holder
            return bit
        self._holders.append(holder)
        self._counts.append(0)
        self._xors.append(0)
        return len(self._holders) - 1

    def _known_bit(self, holder: Holder) -> int | None:
        return self._holders.index(holder) if holder in self._holders else None

    def _held_by(self, stream: StreamId, tier: Tier | None) -> list[tuple[int, BlockHash]]:
        bits = [
            bit
            for bit, holder in enumerate(self._holders)
            if holder is not None and holder[0] == stream and tier in {None, holder[1]}
        ]
        return [
            (bit, block_hash)
            for bit in bits
            for block_hash, block in self._blocks.items()
            if block.holders >> bit & 1
        ]

    def _named(self, holders: int) -> Iterator[Holder]:
        for bit in _bits(holders):
            holder = self._holders[bit]
            assert holder is not None
            yield holder

    def __repr__(self) -> str:
        return f"<BlockIndex {len(self)} blocks, {len(self.resident())} holders>"


def validate_run(run: BlocksStored) -> None:
    """Refuse what `BlockIndex.stored` would refuse.

    Raises:
        ValueError: the tokens do not divide into the run's blocks.
    """
    _bytes_per_block(run, len(run.block_hashes))


def _bytes_per_block(run: BlocksStored, num_blocks: int) -> int:
    if not run.token_ids:
        return 0
    if not num_blocks or len(run.token_ids) % num_blocks:
        raise ValueError(f"{len(run.token_ids)} tokens do not divide into {num_blocks} blocks")
    return len(run.token_ids) // num_blocks * run.token_ids.itemsize


def _bits(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest
