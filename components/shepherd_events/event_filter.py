"""What of a stream one wants to see; applied to items that were handed out, never before.

A filter cuts frames down to the events that match and drops those of which
nothing is left.  Order and completeness were settled by the subscription, so a
filter cannot hide a loss: a `Reset` always passes, with the blocks that match.

A session's blocks are those that it stored or reused, and so are a tenant's.
Removals mostly happen on behalf of somebody else, so that the filter of a
session or tenant remembers which blocks are its own: it shows when they move to
another tier and when they are gone.  Of blocks that were stored before the
position at which one began to read, it knows nothing.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import groupby

from shepherd_events.block_runs import part_of
from shepherd_events.events import (
    Attribution,
    BlockBatch,
    BlockEvent,
    BlocksCleared,
    BlocksRemoved,
    BlocksReused,
    BlocksStored,
    Body,
    Frame,
    Goodbye,
    Notice,
    StreamId,
    StreamInfo,
    Tier,
    TurnCompleted,
)
from shepherd_events.subscription_types import Item, Reset


class Op(StrEnum):
    """Kinds of events, as a filter names them."""

    STORED = "stored"
    REMOVED = "removed"
    REUSED = "reused"
    CLEARED = "cleared"
    TURN = "turn"
    NOTICE = "notice"
    INFO = "info"
    GOODBYE = "goodbye"


_OPS: dict[type[BlockEvent | Body], Op] = {
    BlocksStored: Op.STORED,
    BlocksRemoved: Op.REMOVED,
    BlocksReused: Op.REUSED,
    BlocksCleared: Op.CLEARED,
    TurnCompleted: Op.TURN,
    Notice: Op.NOTICE,
    StreamInfo: Op.INFO,
    Goodbye: Op.GOODBYE,
}


def op_of(event: BlockEvent | Body) -> Op:
    """The kind of an event; a batch, a heartbeat and a tombstone have none.

    Raises:
        KeyError: it has none.
    """
    return _OPS[type(event)]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """What matches all conditions; an empty one matches everything."""

    workers: frozenset[str] = frozenset()
    ops: frozenset[Op] = frozenset()
    tiers: frozenset[Tier] = frozenset()
    """Says nothing about events that have no tier, such as a turn."""
    sessions: frozenset[str] = frozenset()
    tenants: frozenset[str] = frozenset()

    def wants(self, stream: StreamId) -> bool:
        """Whether anything of a stream can match."""
        return not self.workers or stream.worker_id in self.workers

    @property
    def is_personal(self) -> bool:
        """Whether it looks for sessions or tenants."""
        return bool(self.sessions or self.tenants)

    def owns(self, origin: Attribution | None) -> bool:
        """Whether a request belongs to the sessions and tenants that are looked for."""
        if origin is None:
            return not self.is_personal
        session = not self.sessions or origin.session_id in self.sessions
        return session and (not self.tenants or origin.tenant in self.tenants)


class StreamFilter:
    """One stream's items, filtered in order; memory grows with the blocks that are looked for."""

    def __init__(self, wanted: EventFilter) -> None:
        self._wanted = wanted
        self._tiers_of: dict[tuple[int, int], set[Tier]] = {}
        """(group, hash) of a block that is looked for -> the tiers that hold it."""

    def apply(self, item: Item) -> Item | None:
        """What is left of an item; None where nothing matches."""
        if isinstance(item, Reset):
            self._tiers_of.clear()
            blocks = [run for run in self._cut(item.blocks) if isinstance(run, BlocksStored)]
            return replace(item, blocks=tuple(blocks))
        if not self._wanted.wants(item.stream):
            return None
        if isinstance(item.body, BlockBatch):
            events = tuple(self._cut(item.body.events))
            return replace(item, body=BlockBatch(events)) if events else None
        return item if self._shows(item) else None

    def _shows(self, frame: Frame) -> bool:
        """Whether a frame of one event matches."""
        wanted, body = self._wanted, frame.body
        if wanted.ops and _OPS.get(type(body)) not in wanted.ops:
            return False
        match body:
            case TurnCompleted(origin=origin):
                return wanted.owns(origin)
            case Notice(session_id=session, tenant=tenant):
                return wanted.owns(Attribution("", session, tenant))
            case _:
                return not wanted.is_personal

    def _cut(self, events: Iterable[BlockEvent]) -> Iterator[BlockEvent]:
        """The events, or parts of them, that match."""
        wanted = self._wanted
        for event in events:
            parts = self._own_parts(event) if wanted.is_personal else (event,)
            if wanted.ops and op_of(event) not in wanted.ops:
                continue
            if wanted.tiers and event.tier is not None and event.tier not in wanted.tiers:
                continue
            yield from parts

    def _own_parts(self, event: BlockEvent) -> tuple[BlockEvent, ...]:
        """The parts about blocks that are looked for, which are remembered by this."""
        match event:
            case BlocksStored():
                own = self._wanted.owns(event.origin)
                parts = (event,) if own else tuple(self._known_parts(event))
                for part in parts:
                    self._remember(part)
                return parts
            case BlocksReused():
                if not self._wanted.owns(event.origin):
                    return ()
                self._remember(event)
                return (event,)
            case BlocksRemoved():
                hashes = array("Q", filter(self._forgetter(event), event.block_hashes))
                return (replace(event, block_hashes=hashes),) if hashes else ()
            case BlocksCleared(tier=tier):
                known = bool(self._tiers_of)
                self._forget_tier(tier)
                return (event,) if known else ()

    def _known_parts(self, event: BlocksStored) -> Iterator[BlocksStored]:
        """The runs of an event of somebody else's that are blocks looked for."""
        known = [(event.group, block_hash) in self._tiers_of for block_hash in event.block_hashes]
        for is_known, places in groupby(range(len(known)), known.__getitem__):
            if is_known:
                run = list(places)
                yield part_of(event, run[0], run[-1] + 1)

    def _remember(self, event: BlocksStored | BlocksReused) -> None:
        for block_hash in event.block_hashes:
            self._tiers_of.setdefault((event.group, block_hash), set()).add(event.tier)

    def _forgetter(self, event: BlocksRemoved) -> _Forgetter:
        return _Forgetter(self._tiers_of, event.group, event.tier)

    def _forget_tier(self, tier: Tier | None) -> None:
        for key, tiers in list(self._tiers_of.items()):
            tiers.discard(tier) if tier is not None else tiers.clear()
            if not tiers:
                del self._tiers_of[key]


@dataclass(frozen=True, slots=True)
class _Forgetter:
    """Takes a block off one tier; true where it was looked for."""

    tiers_of: dict[tuple[int, int], set[Tier]]
    group: int
    tier: Tier

    def __call__(self, block_hash: int) -> bool:
        tiers = self.tiers_of.get((self.group, block_hash))
        if tiers is None:
            return False
        tiers.discard(self.tier)
        if not tiers:
            del self.tiers_of[self.group, block_hash]
        return True
