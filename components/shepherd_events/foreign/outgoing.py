"""Our block events in the form that vLLM's readers know; pure.

Fields stand in vLLM's order, what is None is left out, and `cache_salt` is
SGLang's and Dynamo's own field for what vLLM hides among the extra keys.
Readers of this form hash tokens under the salt itself, of which our events have
only an id: blocks whose salt is not known cannot be told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_never

from shepherd_events.block_runs import block_size_of
from shepherd_events.events import (
    BlockEvent,
    BlocksCleared,
    BlocksRemoved,
    BlocksReused,
    BlocksStored,
    MediaKey,
    Tier,
)
from shepherd_events.foreign.dialects import CACHE_SALT_PREFIX
from shepherd_events.foreign.mediums import medium_of

SaltOf = Callable[[bytes], str | None]
"""The salt behind an id; None where it is not known."""

ForeignMap = dict[str, Any]

ALL_CLEARED: ForeignMap = {"type": "AllBlocksCleared"}


def foreign_of(event: BlockEvent, salt_of: SaltOf) -> ForeignMap | None:
    """An event as vLLM would tell it; None for what readers must not or need not be told.

    A clearing of one tier has no such form: tell the removal of its blocks.
    """
    match event:
        case BlocksStored():
            return _stored(event, salt_of)
        case BlocksRemoved():
            return _removed(event)
        case BlocksCleared(tier=None):
            return ALL_CLEARED
        case BlocksCleared() | BlocksReused():
            return None
        case _:
            assert_never(event)


def _stored(event: BlocksStored, salt_of: SaltOf) -> ForeignMap | None:
    context = event.context
    salt = salt_of(context.cache_salt_id) if context.cache_salt_id else None
    if context.cache_salt_id and salt is None:
        return None
    medium, locality = medium_of(event.tier)
    return _without_none(
        type="BlockStored",
        block_hashes=event.block_hashes.tolist(),
        parent_block_hash=event.parent_hash,
        token_ids=event.token_ids.tolist(),
        block_size=block_size_of(event),
        lora_id=None,
        medium=medium,
        lora_name=context.lora_name or None,
        extra_keys=_extra_keys(event, salt),
        group_idx=event.group or None,
        locality=locality,
        session_id=(event.origin.session_id or None) if event.origin else None,
        cache_salt=salt,
    )


def _removed(event: BlocksRemoved) -> ForeignMap:
    medium, locality = medium_of(event.tier)
    return _without_none(
        type="BlockRemoved",
        block_hashes=event.block_hashes.tolist(),
        medium=medium,
        group_idx=event.group or None,
        locality=locality,
    )


_ALWAYS = frozenset({"parent_block_hash", "lora_id", "medium", "lora_name"})
"""Fields without a default, which vLLM's reader insists on."""


def _without_none(**fields: Any) -> ForeignMap:
    stored = fields["type"] == "BlockStored"
    return {k: v for k, v in fields.items() if v is not None or (stored and k in _ALWAYS)}


def _extra_keys(event: BlocksStored, salt: str | None) -> list[list[Any] | None] | None:
    """LoRA, media and, at the root of a chain, the salt; None where no block has any."""
    lora = [event.context.lora_name] if event.context.lora_name else []
    by_block: list[list[Any]] = [[*lora] for _ in event.block_hashes]
    for key in event.media:
        by_block[key.block_index].append(_medium(key, event))
    if salt is not None and event.parent_hash is None:
        by_block[0].append(CACHE_SALT_PREFIX + salt)
    return [keys or None for keys in by_block] if any(by_block) else None


def _medium(key: MediaKey, event: BlocksStored) -> list[Any]:
    block_start = (event.start_block + key.block_index) * block_size_of(event)
    return [key.span.digest.hex(), key.span.offset - block_start]


def removals_of_tier(runs: list[BlocksStored], tier: Tier) -> list[BlocksRemoved]:
    """What a clearing of one tier means for the runs that were resident."""
    return [
        BlocksRemoved(run.block_hashes, run.tier, group=run.group)
        for run in runs
        if run.tier is tier
    ]
