"""What the cache of one attention rank holds, in our words: canonical hashes, origins, ends of sequences.

Takes its events (`kv_events.py`) and our requests (`tracks.py`), gives cache
events as the `Engine` protocol promises them.  The invariant: what was given
and not taken back is what the engine told us it holds, as far as we know.

- Partial blocks are not told: their names stay unknown, and so does their end.
- A block whose parent goes, goes before it, whether the engine says so or not.
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
from collections.abc import Iterable

from shepherd_events.block_hash import block_hash, media_between, root_hash, salt_id
from shepherd_events.events import (
    BlockHash,
    BlocksRemoved,
    BlocksReused,
    BlocksStored,
    CacheContext,
    MediaKey,
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
from shepherd_worker.engine.trtllm.ledger_block import (
    TIERS,
    LedgerBlock,
    LedgerCounts,
    Residency,
    continues,
    with_descendants,
)
from shepherd_worker.engine.trtllm.tracks import Track, TrackIndex


class Ledger:
    """See the module's docstring."""

    def __init__(
        self,
        block_size: int,
        model_fingerprint: bytes,
        *,
        rank: int,
        tracks: TrackIndex,
        counts: LedgerCounts,
    ) -> None:
        """`tracks` and `counts` are those of all ranks."""
        self._rank = rank
        self._tracks = tracks
        self._counts = counts
        self._block_size = block_size
        self._fingerprint = model_fingerprint
        self._blocks: dict[BlockName, LedgerBlock] = {}
        self._resident = Residency()
        self._finished: dict[Track, float] = {}
        """Ended sequences whose end is not told, and until when that may wait."""
        self._out: list[CacheEvent] = []

    @property
    def num_resident(self) -> dict[Tier, int]:
        """Blocks that readers believe to be on each tier; any thread may read it."""
        return self._resident.num_on

    def apply(self, event: KvEvent) -> None:
        """Take one event of the engine."""
        match event:
            case Stored():
                self._stored(event)
            case Removed():
                self._removed(event.names)
            case Moved():
                self._moved(event)
            case Lost():
                self._lost(event)

    def num_told(self, track: Track) -> int:
        """How many of a request's leading blocks readers know to be here."""
        return len(self._resident.prefix(track.hashes))

    def unfinished_owners(self, names: Iterable[BlockName]) -> list[Track]:
        """Requests that have some of these blocks and whose end is not known yet."""
        blocks = (self._blocks.get(name) for name in names)
        return [
            track
            for block in blocks
            if block is not None
            for track in self._tracks.sharing(block.block_hash, self._rank)
            if track.finish_reason is None and not track.shares_only
        ]

    def hit(self, track: Track, num_cached: int) -> None:
        """A request found `num_cached` tokens of its prompt in the cache."""
        found = track.hashes[: num_cached // self._block_size]
        self._prove(found)
        resident = array("Q", self._resident.prefix(found))
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

    def finish(self, track: Track, deadline: float) -> None:
        """A request of this rank ended; `settle` tells it, at the latest after `deadline`."""
        self._finished[track] = deadline

    def settle(self, now: float) -> None:
        """Tell the ends of the sequences whose blocks are all there, or whose time is over."""
        for track, deadline in tuple(self._finished.items()):
            complete = self.is_complete(track)
            if complete or now >= deadline:
                self._counts.late += not complete
                self._tell_end(track)

    def drain(self) -> tuple[CacheEvent, ...]:
        """What happened since the last call, in order."""
        out, self._out = tuple(self._out), []
        return out

    def _stored(self, event: Stored) -> None:
        parent = None if event.parent is None else self._blocks.get(event.parent)
        if event.parent is not None and parent is None:
            self._skip(event.blocks)
            return
        if parent is not None:
            self._tell_chain(parent)
        run: list[LedgerBlock] = []
        for index, stored in enumerate(event.blocks):
            block = self._place(stored, parent)
            if block is None:
                self._skip(event.blocks[index:])
                break
            run.append(block)
            parent = block
        self._tell(run)

    def _skip(self, blocks: Iterable[StoredBlock]) -> None:
        """Blocks that are not told: partial ones by rule, others for want of their chain."""
        self._counts.unmapped += sum(len(block.token_ids) == self._block_size for block in blocks)

    def _place(self, stored: StoredBlock, parent: LedgerBlock | None) -> LedgerBlock | None:
        """Where a block belongs; None where it cannot be told."""
        name, tokens = stored.name, stored.token_ids
        if name in self._blocks:
            return self._blocks[name]
        if len(tokens) < self._block_size:
            return None
        if stored.has_media:
            return self._place_images(stored, parent)
        if parent is not None:
            context, root = parent.context, parent.block_hash
        else:
            context, root = self._begin_chain(stored)
        value = block_hash(root, tokens)
        filling = self._tracks.filling(value, root, tokens, self._rank)
        block = LedgerBlock(
            name=name,
            block_hash=value,
            parent=parent,
            position=0 if parent is None else parent.position + 1,
            token_ids=tokens,
            context=context,
            origin=None if filling is None else filling.origin,
            tier=TIERS.get(stored.level, Tier.DEVICE),
        )
        return self._add(block)

    def _place_images(self, stored: StoredBlock, parent: LedgerBlock | None) -> LedgerBlock | None:
        """A block with images is known by the request that shows them: it has their digests.

        Of several, one that lacks the block is taken, since the engine tells each but once.
        """
        position = 0 if parent is None else parent.position + 1
        above = None if parent is None else parent.block_hash
        shown = self._tracks.showing(above, position, stored.token_ids, self._rank)
        fresh = (track for track in shown if not self._resident.has(track.hashes[position]))
        track = next(fresh, shown[0] if shown else None)
        if track is None:
            return None
        start, stop = position * self._block_size, (position + 1) * self._block_size
        block = LedgerBlock(
            name=stored.name,
            block_hash=track.hashes[position],
            parent=parent,
            position=position,
            token_ids=track.token_ids[start:stop],
            context=track.context,
            origin=track.origin,
            tier=TIERS.get(stored.level, Tier.DEVICE),
            media=media_between(track.media, start, stop),
        )
        return self._add(block)

    def _add(self, block: LedgerBlock) -> LedgerBlock:
        self._blocks[block.name] = block
        if block.parent is not None:
            block.parent.children[block.name] = block
        return block

    def _begin_chain(self, stored: StoredBlock) -> tuple[CacheContext, BlockHash]:
        """Salt and adapter of a first block, and its root: those of a request that fills it.

        Of several, one that lacks the block is taken, since the engine tells each but once.
        """
        tokens = stored.token_ids
        fits = [
            (context, root, value)
            for context, root in self._tracks.roots(stored.cache_salt)
            if self._tracks.filling(value := block_hash(root, tokens), root, tokens, self._rank)
        ]
        if fits:
            fresh = (fit for fit in fits if not self._resident.has(fit[2]))
            context, root, _ = next(fresh, fits[0])
            return context, root
        salt = stored.cache_salt or ""
        return CacheContext(cache_salt_id=salt_id(salt)), root_hash(
            self._fingerprint, cache_salt=salt
        )

    def _removed(self, names: Iterable[BlockName]) -> None:
        going: dict[BlockName, LedgerBlock] = {}
        for name in names:
            if name in self._blocks:
                going |= {block.name: block for block in with_descendants(self._blocks[name])}
        leaves_first = sorted(going.values(), key=lambda block: -block.position)
        for block in leaves_first:
            self._tell_ends_before(block)
        gone: dict[Tier, list[int]] = {}
        for block in leaves_first:
            self._forget(block)
            if block.told and self._resident.remove(block.block_hash, block.tier):
                gone.setdefault(block.tier, []).append(block.block_hash)
        for tier, values in gone.items():
            self._out.append(BlocksRemoved(array("Q", values), tier=tier))
            self._counts.evicted += len(values)

    def _moved(self, event: Moved) -> None:
        block = self._blocks.get(event.name)
        new = TIERS.get(event.new_level)
        if block is None or new is None or new is block.tier:
            return
        self._tell_chain(block)
        old, block.tier = block.tier, new
        if new is Tier.HOST:
            self._counts.offloaded += 1
        else:
            self._counts.onboarded += 1
        self._hold(block)
        if self._resident.remove(block.block_hash, old):
            self._out.append(BlocksRemoved(array("Q", [block.block_hash]), tier=old))

    def _lost(self, event: Lost) -> None:
        """Take everything back; a block that nothing proved since the last loss is forgotten."""
        self._counts.losses += 1
        self._counts.lost_events += event.num_events
        for track in tuple(self._finished):
            self._tell_end(track)
        self._take_back()
        for block in tuple(self._blocks.values()):
            if block.told and event.num_events:
                block.told = False
            else:
                self._forget(block)

    def _take_back(self) -> None:
        """Let readers forget all that they were told, leaves first."""
        told: dict[tuple[Tier, int], None] = {}
        for block in sorted(self._blocks.values(), key=lambda block: -block.position):
            if block.told:
                told[block.tier, block.block_hash] = None
        for tier in TIERS.values():
            values = array("Q", [value for where, value in told if where is tier])
            if values:
                self._out.append(BlocksRemoved(values, tier=tier))
        self._resident.clear()

    def _prove(self, values: list[BlockHash]) -> None:
        """A request hit these blocks: those that a loss made doubtful are there after all."""
        if not self._counts.losses or not values or self._resident.has(values[-1]):
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
            if not self._resident.add(block.block_hash, block.tier):
                continue
            if piece and not continues(piece[-1], block):
                self._emit_stored(piece)
                piece = []
            piece.append(block)
        self._emit_stored(piece)

    def _hold(self, block: LedgerBlock) -> None:
        if self._resident.add(block.block_hash, block.tier):
            self._emit_stored([block])

    def _emit_stored(self, piece: list[LedgerBlock]) -> None:
        if not piece:
            return
        first, tokens = piece[0], array("I")
        for block in piece:
            tokens.extend(block.token_ids)
        self._counts.stored += len(piece)
        self._out.append(
            BlocksStored(
                block_hashes=array("Q", [block.block_hash for block in piece]),
                parent_hash=None if first.parent is None else first.parent.block_hash,
                token_ids=tokens,
                start_block=first.position,
                tier=first.tier,
                context=first.context,
                origin=first.origin,
                media=tuple(
                    MediaKey(index, span)
                    for index, block in enumerate(piece)
                    for span in block.media
                ),
            )
        )

    def _forget(self, block: LedgerBlock) -> None:
        del self._blocks[block.name]
        if block.parent is not None:
            block.parent.children.pop(block.name, None)

    def is_complete(self, track: Track) -> bool:
        """Whether all its blocks are told; what was found once is not looked up again."""
        hashes = track.hashes
        while track.num_told < len(hashes) and self._resident.has(hashes[track.num_told]):
            track.num_told += 1
        return track.num_told == len(hashes)

    def _tell_ends_before(self, block: LedgerBlock) -> None:
        """A block goes: the ended sequences that it belongs to end first."""
        for track in self._tracks.sharing(block.block_hash, self._rank):
            if track in self._finished:
                self._tell_end(track)

    def _tell_end(self, track: Track) -> None:
        del self._finished[track]
        assert track.finish_reason is not None
        resident = self._resident.prefix(track.hashes)
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
        self._tracks.remove(track)
