"""One foreign cache's events in our words, without any I/O.

A foreign hash is an opaque name; ours is worked out from the tokens along the
chain, so that equal prefixes have equal hashes whoever holds them.  That needs
the whole chain: of a block whose parent was never seen nothing can be told.

    event                     known                       told
    -----------------------   -------------------------   -----------------------
    stored, with tokens       root, or the parent         stored, unless it was held
                              neither                     nothing, counted
    stored, without tokens    the block, from any tier    stored, hashes only
    removed                   held on that tier           removed
                              not held                    nothing, counted
    cleared                   -                           cleared
    unreadable, may remove    -                           cleared: anything may be gone

What is told may be too little, never too much: a name that would stand for two
blocks, a second name of a block, a tier or a kind of attention that is not
understood, and blocks beyond the limit are left out and counted.  Names of
blocks that left are remembered for a while: their children and copies may come.

Invariant: a block is told to be on a tier exactly while its foreign name is
held there.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from shepherd_events.block_hash import block_hash, root_hash, salt_id
from shepherd_events.events import (
    Attribution,
    BlockEvent,
    BlockHash,
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
    CacheContext,
    MediaKey,
    Tier,
)
from shepherd_events.foreign.dialects import MAIN_ATTENTION
from shepherd_events.foreign.events import (
    ForeignCleared,
    ForeignEvent,
    ForeignHash,
    ForeignRemoved,
    ForeignStored,
    Unreadable,
)
from shepherd_events.foreign.extra_keys import media_of, salt_of
from shepherd_events.foreign.mediums import tier_of

MAX_ABSENT = 65_536
"""Names of blocks that left, remembered."""


@dataclass(slots=True)
class TranslatorCounts:
    """Blocks, unless the name says otherwise."""

    stored: int = 0
    removed: int = 0
    clearings: int = 0
    unknown_parents: int = 0
    """Stored after a block that was never seen, or copied without having been seen."""
    unknown_removals: int = 0
    """Removed without being held; harmless."""
    unknown_mediums: int = 0
    other_attention: int = 0
    """Of groups whose blocks do not hold every token."""
    misfits: int = 0
    """Of another block size, or with another number of tokens than their size says."""
    ambiguous: int = 0
    """Under a name that stands for another block, or a second name of a block."""
    over_limit: int = 0
    unreadable_events: int = 0
    losses: int = 0
    """Times that all was declared gone because something may have been missed."""


@dataclass(slots=True)
class _Block:
    ours: BlockHash
    parent: BlockHash | None
    position: int
    context: CacheContext
    places: int = 0
    """One bit for each group and tier that holds it."""


@dataclass(slots=True)
class _Start:
    """Where a run begins."""

    base: BlockHash
    """What the first hash is chained to."""
    parent: BlockHash | None
    position: int
    context: CacheContext


@dataclass(slots=True)
class Translator:
    """The cache of one rank of one publisher."""

    model: str
    """Enters every hash: streams of one model hash equally."""
    block_size: int
    max_blocks: int = 1_000_000
    counts: TranslatorCounts = field(default_factory=TranslatorCounts)
    _blocks: dict[ForeignHash, _Block] = field(default_factory=dict)
    _names: dict[BlockHash, ForeignHash] = field(default_factory=dict)
    _absent: dict[ForeignHash, None] = field(default_factory=dict)
    """Names that are held nowhere, in the order in which they left."""
    _other_groups: set[int] = field(default_factory=set)

    def translate(self, events: Iterable[ForeignEvent]) -> list[BlockEvent]:
        """What the events mean, in their order."""
        told: list[BlockEvent] = []
        for event in events:
            match event:
                case ForeignStored():
                    told += self._stored(event)
                case ForeignRemoved():
                    told += self._removed(event)
                case ForeignCleared():
                    self.counts.clearings += 1
                    told += self._clear()
                case Unreadable():
                    self.counts.unreadable_events += 1
                    told += self.lose() if event.may_remove else []
        return told

    def lose(self) -> list[BlockEvent]:
        """Something may have been missed: nothing that is held can be relied on."""
        self.counts.losses += 1
        return self._clear()

    @property
    def num_held(self) -> int:
        """Blocks that are on some tier."""
        return len(self._blocks) - len(self._absent)

    def _clear(self) -> list[BlockEvent]:
        self._blocks.clear()
        self._names.clear()
        self._absent.clear()
        return [BlocksCleared()]

    # ---- Stored

    def _stored(self, event: ForeignStored) -> list[BlockEvent]:
        num_blocks = len(event.block_hashes)
        tier = tier_of(event.medium, event.locality)
        if event.kind not in MAIN_ATTENTION:
            self._other_groups.add(event.group)
            self.counts.other_attention += num_blocks
        elif tier is None:
            self.counts.unknown_mediums += num_blocks
        elif not event.token_ids:
            return self._copied(event, tier)
        elif event.block_size != self.block_size or not _fits(event):
            self.counts.misfits += num_blocks
        elif (start := self._start(event)) is None:
            self.counts.unknown_parents += num_blocks
        else:
            return self._computed(event, tier, start)
        return []

    def _start(self, event: ForeignStored) -> _Start | None:
        if event.parent is None:
            salt = salt_of(event)
            root = root_hash(self.model.encode(), lora_name=event.lora_name, cache_salt=salt)
            return _Start(root, None, 0, CacheContext(event.lora_name, salt_id(salt)))
        parent = self._blocks.get(event.parent)
        if parent is None:
            return None
        return _Start(parent.ours, parent.ours, parent.position + 1, parent.context)

    def _computed(self, event: ForeignStored, tier: Tier, start: _Start) -> list[BlockEvent]:
        """Hash the run as far as its blocks can be told apart from others."""
        size, bit = self.block_size, _bit(tier, event.group)
        hashes, media = array("Q"), list[MediaKey]()
        base, parent = start.base, start.parent
        num_new = 0
        for index, name in enumerate(event.block_hashes):
            position = start.position + index
            spans = media_of(event, index, position * size)
            ours = block_hash(base, event.token_ids[index * size : (index + 1) * size], spans)
            block = self._named(name, _Block(ours, parent, position, start.context))
            if block is None:
                self.counts.unknown_parents += len(event.block_hashes) - index - 1
                break
            num_new += self._hold(name, block, bit)
            hashes.append(ours)
            media += (MediaKey(index, span) for span in spans)
            base = parent = ours
        self.counts.stored += num_new
        if not num_new:
            return []
        return [
            BlocksStored(
                hashes,
                start.parent,
                event.token_ids[: len(hashes) * size],
                start.position,
                tier,
                start.context,
                _origin(event),
                event.group,
                tuple(media),
            )
        ]

    def _copied(self, event: ForeignStored, tier: Tier) -> list[BlockEvent]:
        """Known blocks came to another tier; each is a run of its own, which costs little."""
        told: list[BlockEvent] = []
        for name in event.block_hashes:
            block = self._blocks.get(name)
            if block is None:
                self.counts.unknown_parents += 1
            elif not block.places and not self._has_room():
                self.counts.over_limit += 1
            elif self._hold(name, block, _bit(tier, event.group)):
                self.counts.stored += 1
                told.append(
                    BlocksStored(
                        array("Q", [block.ours]),
                        block.parent,
                        array("I"),
                        block.position,
                        tier,
                        block.context,
                        _origin(event),
                        event.group,
                    )
                )
        return told

    def _named(self, name: ForeignHash, block: _Block) -> _Block | None:
        """The block under a name, where the name and it stand for one another alone."""
        for other in (name, self._names.get(block.ours)):
            known = self._blocks.get(other) if other is not None else None
            if known is None or (other == name and known.ours == block.ours):
                continue
            if known.places:
                self.counts.ambiguous += 1
                return None
            assert other is not None
            self._drop(other)
        known = self._blocks.get(name)
        if (known is None or not known.places) and not self._has_room():
            self.counts.over_limit += 1
            return None
        if known is None:
            known = self._blocks[name] = block
            self._names[block.ours] = name
            self._absent[name] = None
        return known

    def _has_room(self) -> bool:
        return self.num_held < self.max_blocks

    def _hold(self, name: ForeignHash, block: _Block, bit: int) -> bool:
        """Whether that is news."""
        self._absent.pop(name, None)
        is_new = not block.places & bit
        block.places |= bit
        return is_new

    # ---- Removed

    def _removed(self, event: ForeignRemoved) -> list[BlockEvent]:
        tier = tier_of(event.medium, event.locality)
        if tier is None or event.group in self._other_groups:
            return []
        bit, gone = _bit(tier, event.group), array("Q")
        for name in event.block_hashes:
            block = self._blocks.get(name)
            if block is None or not block.places & bit:
                self.counts.unknown_removals += 1
                continue
            gone.append(block.ours)
            block.places &= ~bit
            if not block.places:
                self._leave(name)
        self.counts.removed += len(gone)
        return [BlocksRemoved(gone, tier, group=event.group)] if gone else []

    def _leave(self, name: ForeignHash) -> None:
        self._absent[name] = None
        if len(self._absent) > MAX_ABSENT:
            self._drop(next(iter(self._absent)))

    def _drop(self, name: ForeignHash) -> None:
        block = self._blocks.pop(name)
        self._absent.pop(name, None)
        self._names.pop(block.ours, None)

    def __repr__(self) -> str:
        return f"<Translator {self.num_held} blocks held, {len(self._absent)} remembered>"


def _fits(event: ForeignStored) -> bool:
    return len(event.token_ids) == len(event.block_hashes) * event.block_size


def _bit(tier: Tier, group: int) -> int:
    return 1 << (group * 8 + tier)


def _origin(event: ForeignStored) -> Attribution | None:
    return Attribution("", event.session_id) if event.session_id else None
