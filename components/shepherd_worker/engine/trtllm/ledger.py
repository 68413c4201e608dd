"""What TensorRT-LLM's cache holds, in our words: canonical hashes, origins, ends of sequences.

Takes its events (`kv_events.py`) and our requests (`tracks.py`), gives cache
events as the `Engine` protocol promises them.  The invariant: what was given
and not taken back is what the engine told us it holds, as far as we know.

- Partial blocks are not told; their names are kept, so that their end is not either.
- A block whose parent goes, goes before it, whether the engine says so or not.
- The same block on several attention ranks is stored with the first and removed
  with the last.
- After a loss nothing is certain: everything is taken back, and a block is told
  again when something proves that it is still there (a child is stored, it
  moves, a request hits it).
- The end of a sequence is told when all its blocks are stored, before the first
  of them goes, or when waiting longer would be pointless; the tokens that no
  stored block holds are its tail, so that its text is exact in every case.

Pure: no clock, no thread, no I/O.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from shepherd_events.block_hash import block_hash, root_hash, salt_id
from shepherd_events.events import (
    Attribution,
    BlockHash,
    BlocksRemoved,
    BlocksReused,
    BlocksStored,
    CacheContext,
    Tier,
)
from shepherd_worker.engine.protocol import CacheEvent, SequenceFinished
from shepherd_worker.engine.trtllm.kv_events import (
    BlockName,
    KvEvent,
    Lost,
    Moved,
    Removed,
    Stored,
    StoredBlock,
)
from shepherd_worker.engine.trtllm.tracks import Track, TrackIndex
from shepherd_worker.request import FinishReason

_TIERS = {0: Tier.DEVICE, 1: Tier.HOST}
Key = tuple[int, BlockName]
"""Attention rank and name: names of two ranks are different blocks."""


@dataclass(slots=True)
class LedgerBlock:
    """A full block that the engine told of."""

    key: Key
    block_hash: BlockHash
    parent: LedgerBlock | None
    position: int
    """In its chain, from 0."""
    token_ids: array[int]
    context: CacheContext
    origin: Attribution | None
    tier: Tier
    children: dict[Key, LedgerBlock] = field(default_factory=dict)
    told: bool = False
    """Whether readers know of it; not so after a loss, until something proves it."""


@dataclass(slots=True)
class LedgerCounts:
    """Totals since the start."""

    stored: int = 0
    evicted: int = 0
    offloaded: int = 0
    onboarded: int = 0
    lost_events: int = 0
    """Events that the engine discarded before we took them."""
    losses: int = 0
    """Times that everything had to be taken back."""
    unmapped: int = 0
    """Full blocks that cannot be told: their chain's beginning is not known, or they hold media."""
    late: int = 0
    """Ends of sequences that were told although blocks of theirs were not stored in time."""


class Ledger:
    """See the module's docstring."""

    def __init__(self, block_size: int, model_fingerprint: bytes) -> None:
        self.counts = LedgerCounts()
        self.num_resident = dict.fromkeys(_TIERS.values(), 0)
        """Blocks that readers believe to be on each tier; any thread may read it."""
        self.tracks = TrackIndex(block_size)
        self._block_size = block_size
        self._fingerprint = model_fingerprint
        self._blocks: dict[Key, LedgerBlock] = {}
        self._partial: set[Key] = set()
        self._holders: dict[tuple[int, Tier], int] = {}
        """Ranks that hold a block on a tier, by its hash."""
        self._finished: dict[Track, float] = {}
        """Ended sequences whose end is not told, and until when that may wait."""
        self._out: list[CacheEvent] = []

    def apply(self, rank: int, event: KvEvent) -> None:
        """Take one event of the engine."""
        match event:
            case Stored():
                self._stored(rank, event)
            case Removed():
                self._removed(rank, event.names)
            case Moved():
                self._moved(rank, event)
            case Lost():
                self._lost(rank, event)

    def unfinished_owners(self, rank: int, names: Iterable[BlockName]) -> list[Track]:
        """Requests that have some of these blocks and whose end is not known yet."""
        blocks = (self._blocks.get((rank, name)) for name in names)
        return [
            track
            for block in blocks
            if block is not None
            for track in self.tracks.sharing(block.block_hash)
            if track.finish_reason is None and not track.shares_only
        ]

    def hit(self, track: Track, num_cached: int) -> None:
        """A request found `num_cached` tokens of its prompt in the cache."""
        found = track.hashes[: num_cached // self._block_size]
        self._prove(found)
        resident = array("Q", self._resident_prefix(found))
        if resident:
            self._out.append(
                BlocksReused(
                    block_hashes=resident,
                    parent_hash=None,
                    start_block=0,
                    context=track.context,
                    origin=track.origin,
                )
            )

    def finish(self, track: Track, reason: FinishReason, num_cached: int, deadline: float) -> None:
        """A request ended; its end is told by `settle`, at the latest after `deadline`."""
        track.num_cached = num_cached
        track.finish_reason = reason
        self._finished[track] = deadline

    def settle(self, now: float) -> None:
        """Tell the ends of the sequences whose blocks are all there, or whose time is over."""
        for track, deadline in tuple(self._finished.items()):
            complete = len(self._resident_prefix(track.hashes)) == len(track.hashes)
            if complete or now >= deadline:
                self.counts.late += not complete
                self._tell_end(track)

    def drain(self) -> tuple[CacheEvent, ...]:
        """What happened since the last call, in order."""
        out, self._out = tuple(self._out), []
        return out

    def _stored(self, rank: int, event: Stored) -> None:
        parent = None if event.parent is None else self._blocks.get((rank, event.parent))
        if event.parent is not None and parent is None:
            self._skip(rank, event.blocks)
            return
        if parent is not None:
            self._tell_chain(parent)
        run: list[LedgerBlock] = []
        for index, stored in enumerate(event.blocks):
            block = self._place(rank, stored, parent)
            if block is None:
                self._skip(rank, event.blocks[index:])
                break
            run.append(block)
            parent = block
        self._tell(run)

    def _skip(self, rank: int, blocks: Iterable[StoredBlock]) -> None:
        """Blocks that are not told: partial ones by rule, others for want of their chain."""
        for block in blocks:
            if len(block.token_ids) < self._block_size:
                self._partial.add((rank, block.name))
            else:
                self.counts.unmapped += 1

    def _place(
        self, rank: int, stored: StoredBlock, parent: LedgerBlock | None
    ) -> LedgerBlock | None:
        """Where a block belongs; None where it cannot be told."""
        key, tokens = (rank, stored.name), stored.token_ids
        if key in self._blocks:
            return self._blocks[key]
        if len(tokens) < self._block_size or stored.has_media:
            return None
        if parent is not None:
            context, value = parent.context, block_hash(parent.block_hash, tokens)
        else:
            context, value = self._begin_chain(stored)
        block = LedgerBlock(
            key=key,
            block_hash=value,
            parent=parent,
            position=0 if parent is None else parent.position + 1,
            token_ids=tokens,
            context=context,
            origin=self.tracks.origin(value),
            tier=_TIERS.get(stored.level, Tier.DEVICE),
        )
        self._blocks[key] = block
        if parent is not None:
            parent.children[key] = block
        return block

    def _begin_chain(self, stored: StoredBlock) -> tuple[CacheContext, BlockHash]:
        """Salt and adapter of a first block: those of a request that will fill it.

        Of several, one that lacks the block is taken, since the engine tells each but once.
        """
        fits = [
            (context, block_hash(root, stored.token_ids))
            for context, root in self.tracks.roots(stored.cache_salt)
        ]
        expected = [fit for fit in fits if self.tracks.sharing(fit[1])]
        fresh = [fit for fit in expected if not self._is_resident(fit[1])]
        if fresh or expected:
            return (fresh or expected)[0]
        salt = stored.cache_salt or ""
        root = root_hash(self._fingerprint, cache_salt=salt)
        return CacheContext(cache_salt_id=salt_id(salt)), block_hash(root, stored.token_ids)

    def _removed(self, rank: int, names: Iterable[BlockName]) -> None:
        going: dict[Key, LedgerBlock] = {}
        for name in names:
            key = (rank, name)
            self._partial.discard(key)
            if key in self._blocks:
                going |= {block.key: block for block in _with_descendants(self._blocks[key])}
        leaves_first = sorted(going.values(), key=lambda block: -block.position)
        for block in leaves_first:
            self._tell_ends_before(block)
        gone: dict[Tier, list[int]] = {}
        for block in leaves_first:
            self._forget(block)
            if block.told and self._release(block.block_hash, block.tier):
                gone.setdefault(block.tier, []).append(block.block_hash)
        for tier, values in gone.items():
            self._out.append(BlocksRemoved(array("Q", values), tier=tier))
            self.counts.evicted += len(values)

    def _moved(self, rank: int, event: Moved) -> None:
        block = self._blocks.get((rank, event.name))
        new = _TIERS.get(event.new_level)
        if block is None or new is None or new is block.tier:
            return
        self._tell_chain(block)
        old, block.tier = block.tier, new
        if new is Tier.HOST:
            self.counts.offloaded += 1
        else:
            self.counts.onboarded += 1
        self._hold(block)
        if self._release(block.block_hash, old):
            self._out.append(BlocksRemoved(array("Q", [block.block_hash]), tier=old))

    def _lost(self, rank: int, event: Lost) -> None:
        """Take everything back; what other ranks hold is still certain, and told again."""
        self.counts.losses += 1
        self.counts.lost_events += event.num_events
        for track in tuple(self._finished):
            self._tell_end(track)
        self._take_back()
        for block in tuple(self._blocks.values()):
            restarted = not event.num_events and block.key[0] == rank
            if restarted or not block.told:  # nothing proved the latter since the last loss
                self._forget(block)
        for block in self._blocks.values():
            block.told = False
        for block in sorted(self._blocks.values(), key=lambda block: block.position):
            if block.key[0] != rank:
                self._tell([block])

    def _take_back(self) -> None:
        """Let readers forget all that they were told, leaves first."""
        told: dict[tuple[Tier, int], None] = {}
        for block in sorted(self._blocks.values(), key=lambda block: -block.position):
            if block.told:
                told[block.tier, block.block_hash] = None
        for tier in _TIERS.values():
            values = array("Q", [value for where, value in told if where is tier])
            if values:
                self._out.append(BlocksRemoved(values, tier=tier))
        self._holders.clear()
        self.num_resident.update(dict.fromkeys(_TIERS.values(), 0))

    def _prove(self, values: list[BlockHash]) -> None:
        """A request hit these blocks: those that a loss made doubtful are there after all."""
        if not values or self._is_resident(values[-1]):
            return
        wanted = set(values)
        for block in tuple(self._blocks.values()):
            if not block.told and block.block_hash in wanted:
                self._tell_chain(block)

    def _tell_chain(self, block: LedgerBlock) -> None:
        """Tell a block and its ancestors, as far as readers do not know them."""
        chain: list[LedgerBlock] = []
        at: LedgerBlock | None = block
        while at is not None and not at.told:
            chain.append(at)
            at = at.parent
        self._tell(chain[::-1])

    def _tell(self, run: list[LedgerBlock]) -> None:
        """Tell consecutive blocks of one chain, in pieces that are new and of one origin and tier."""
        piece: list[LedgerBlock] = []
        for block in run:
            if block.told:
                continue
            block.told = True
            if not self._count_holder(block):
                continue
            if piece and not _continues(piece[-1], block):
                self._emit_stored(piece)
                piece = []
            piece.append(block)
        self._emit_stored(piece)

    def _hold(self, block: LedgerBlock) -> None:
        if self._count_holder(block):
            self._emit_stored([block])

    def _count_holder(self, block: LedgerBlock) -> bool:
        """One more rank holds a block; whether it is the first."""
        where = (block.block_hash, block.tier)
        self._holders[where] = self._holders.get(where, 0) + 1
        first = self._holders[where] == 1
        self.num_resident[block.tier] += first
        return first

    def _release(self, value: int, tier: Tier) -> bool:
        """A rank holds a block no longer; whether it was the last."""
        self._holders[value, tier] -= 1
        if self._holders[value, tier]:
            return False
        del self._holders[value, tier]
        self.num_resident[tier] -= 1
        return True

    def _emit_stored(self, piece: list[LedgerBlock]) -> None:
        if not piece:
            return
        first, tokens = piece[0], array("I")
        for block in piece:
            tokens.extend(block.token_ids)
        self.counts.stored += len(piece)
        self._out.append(
            BlocksStored(
                block_hashes=array("Q", [block.block_hash for block in piece]),
                parent_hash=None if first.parent is None else first.parent.block_hash,
                token_ids=tokens,
                start_block=first.position,
                tier=first.tier,
                context=first.context,
                origin=first.origin,
            )
        )

    def _forget(self, block: LedgerBlock) -> None:
        del self._blocks[block.key]
        if block.parent is not None:
            block.parent.children.pop(block.key, None)

    def _is_resident(self, value: int) -> bool:
        return any((value, tier) in self._holders for tier in _TIERS.values())

    def _resident_prefix(self, values: list[BlockHash]) -> list[BlockHash]:
        for index, value in enumerate(values):
            if not self._is_resident(value):
                return values[:index]
        return values

    def _tell_ends_before(self, block: LedgerBlock) -> None:
        """A block goes: the ended sequences that it belongs to end first."""
        for track in self.tracks.sharing(block.block_hash):
            if track in self._finished:
                self._tell_end(track)

    def _tell_end(self, track: Track) -> None:
        del self._finished[track]
        assert track.finish_reason is not None
        resident = self._resident_prefix(track.hashes)
        self._out.append(
            SequenceFinished(
                origin=track.origin,
                context=track.context,
                prompt_tokens=track.num_prompt,
                cached_tokens=track.num_cached,
                generated_tokens=len(track.token_ids) - track.num_prompt,
                last_block_hash=resident[-1] if resident else None,
                num_full_blocks=len(resident),
                tail_token_ids=track.token_ids[len(resident) * self._block_size :],
                finish_reason=track.finish_reason,
                started_unix_ns=track.started_unix_ns,
            )
        )
        self.tracks.remove(track)


def _with_descendants(block: LedgerBlock) -> Iterator[LedgerBlock]:
    pending = [block]
    while pending:
        block = pending.pop()
        yield block
        pending.extend(block.children.values())


def _continues(last: LedgerBlock, block: LedgerBlock) -> bool:
    """Whether a block may follow another in one event."""
    return block.parent is last and (block.tier, block.origin) == (last.tier, last.origin)
