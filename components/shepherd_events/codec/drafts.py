"""Frozen dataclasses at the price of ordinary ones.

A frozen dataclass sets each field through `object.__setattr__`, which would be
the larger part of what reading an event costs.  A draft has the same slots, is
filled by plain assignment, and becomes the frozen class when it is complete.
"""

from __future__ import annotations

from array import array
from typing import Any

from shepherd_events.events import (
    Attribution,
    BlocksRemoved,
    BlocksStored,
    Body,
    CacheContext,
    Frame,
    StreamId,
    Tier,
)

Link = tuple[int, int, CacheContext]
"""What a run hangs on: its parent, 0 for none; its position; its context."""

Place = tuple[Tier | None, int, Attribution | None]
"""Tier and group of a run, and who caused it; no tier is every tier, of a CLEARED run only."""


class _StoredDraft:
    __slots__ = BlocksStored.__slots__


class _RemovedDraft:
    __slots__ = BlocksRemoved.__slots__


class _FrameDraft:
    __slots__ = Frame.__slots__


def blocks_stored(
    block_hashes: array[int], token_ids: array[int], link: Link, place: Place
) -> BlocksStored:
    """A run without media and sealed tokens."""
    draft: Any = _StoredDraft()
    draft.block_hashes = block_hashes
    parent, draft.start_block, draft.context = link
    draft.parent_hash = parent or None
    draft.token_ids = token_ids
    draft.tier, draft.group, draft.origin = place
    draft.media = ()
    draft.sealed = None
    draft.__class__ = BlocksStored
    event: BlocksStored = draft
    return event


def blocks_removed(block_hashes: array[int], place: Place) -> BlocksRemoved:
    """As the class itself."""
    draft: Any = _RemovedDraft()
    draft.block_hashes = block_hashes
    draft.tier, draft.group, draft.origin = place
    draft.__class__ = BlocksRemoved
    event: BlocksRemoved = draft
    return event


def frame(
    stream: StreamId,
    epoch: int,
    seq: int,
    ts_unix_ns: int,
    body: Body,
    required_features: int,
    checksum: int | None,
) -> Frame:
    """As the class itself."""
    draft: Any = _FrameDraft()
    draft.stream = stream
    draft.epoch = epoch
    draft.seq = seq
    draft.ts_unix_ns = ts_unix_ns
    draft.body = body
    draft.required_features = required_features
    draft.checksum = checksum
    draft.__class__ = Frame
    made: Frame = draft
    return made
