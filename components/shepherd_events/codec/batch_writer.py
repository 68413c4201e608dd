"""Block events to the bytes of a `BlockBatch`, its fields in the order of their numbers.

Equal contexts and attributions share one table entry.  The arrays of the events
are copied once, column by column.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar, cast

from shepherd_events.codec.columns import EVERY_TIER, Op, check_hashes, check_tokens
from shepherd_events.codec.packed_columns import (
    Part,
    delimited_field,
    field_head,
    fixed_field,
    num_bytes,
    varint_field,
)
from shepherd_events.codec.shared_messages import (
    attribution_message,
    context_message,
    media_key_message,
    sealed_message,
)
from shepherd_events.errors import CodecError
from shepherd_events.events import (
    Attribution,
    BlockEvent,
    BlocksCleared,
    BlocksRemoved,
    BlocksReused,
    BlocksStored,
    CacheContext,
    MediaKey,
    Tier,
)
from shepherd_events.v1 import kv_events_pb2 as pb

_T = TypeVar("_T")
_Run = BlocksStored | BlocksRemoved | BlocksReused

_DEFAULT_CONTEXTS = [CacheContext()]
_NO_HASHES: array[int] = array("Q")
_CACHED_FIELDS = 1024
_OPS: dict[type[BlockEvent], int] = {
    BlocksStored: Op.STORED.value,
    BlocksRemoved: Op.REMOVED.value,
    BlocksCleared: Op.CLEARED.value,
    BlocksReused: Op.REUSED.value,
}

_ATTRIBUTION = pb.BlockBatch.ATTRIBUTION_FIELD_NUMBER
_ATTRIBUTIONS = pb.BlockBatch.ATTRIBUTIONS_FIELD_NUMBER
_BLOCK_HASH = pb.BlockBatch.BLOCK_HASH_FIELD_NUMBER
_CONTEXT = pb.BlockBatch.CONTEXT_FIELD_NUMBER
_CONTEXTS = pb.BlockBatch.CONTEXTS_FIELD_NUMBER
_GROUP = pb.BlockBatch.GROUP_FIELD_NUMBER
_OP = pb.BlockBatch.OP_FIELD_NUMBER
_PARENT_HASH = pb.BlockBatch.PARENT_HASH_FIELD_NUMBER
_RUN_LEN = pb.BlockBatch.RUN_LEN_FIELD_NUMBER
_RUN_TOKENS = pb.BlockBatch.RUN_TOKENS_FIELD_NUMBER
_START_BLOCK = pb.BlockBatch.START_BLOCK_FIELD_NUMBER
_TIER = pb.BlockBatch.TIER_FIELD_NUMBER
_TOKEN_ID = pb.BlockBatch.TOKEN_ID_FIELD_NUMBER


def batch_field(number: int, events: Sequence[BlockEvent]) -> list[Part]:
    """The parts of a field that holds a `BlockBatch`.

    Tokens, nearly all of it, are parts of their own, so that they are copied once.

    Raises:
        CodecError: an event that no reader would accept.
        TypeError, ValueError, OverflowError: a value that the wire cannot hold.
    """
    kinds = [type(event) for event in events]
    runs = _runs(events) if BlocksCleared in kinds else cast("Sequence[_Run]", events)
    chained = [run for run in runs if not isinstance(run, BlocksRemoved)]
    stored = [run for run in chained if isinstance(run, BlocksStored)]
    tokens = fixed_field(_TOKEN_ID, "I", [run.token_ids for run in stored])
    before = _before_tokens([_OPS[kind] for kind in kinds], runs, chained)
    after = _after_tokens(runs, chained, stored)
    length = len(before) + num_bytes(tokens) + len(after)
    return [field_head(number, length), before, *tokens, after]


def _before_tokens(
    ops: Sequence[int], runs: Sequence[_Run], chained: Sequence[BlocksStored | BlocksReused]
) -> bytes:
    hashes = [run.block_hashes for run in runs]
    tiers = [run.tier for run in runs]
    parents = [run.parent_hash for run in chained]
    if 0 in parents:
        raise CodecError("blocks.parent_hash", "0 is never a hash: the root's parent is None")
    parents_column = array("Q", [parent or 0 for parent in parents])
    head, *columns = fixed_field(_BLOCK_HASH, "Q", hashes) or [b""]
    block_hash = b"".join(columns)
    check_hashes(block_hash)
    return b"".join(
        (
            varint_field(_OP, ops),
            varint_field(_RUN_LEN, [len(column) for column in hashes]),
            b"" if tiers.count(Tier.DEVICE) == len(tiers) else varint_field(_TIER, tiers),
            *fixed_field(_PARENT_HASH, "Q", [parents_column]),
            head,
            block_hash,
        )
    )


def _after_tokens(
    runs: Sequence[_Run],
    chained: Sequence[BlocksStored | BlocksReused],
    stored: Sequence[BlocksStored],
) -> bytes:
    groups = [run.group for run in runs]
    contexts, context = _numbered([run.context for run in chained])
    attributions, attribution = _numbered([run.origin for run in runs])
    has_contexts = contexts != _DEFAULT_CONTEXTS
    return b"".join(
        (
            varint_field(_RUN_TOKENS, _run_tokens(stored)),
            varint_field(_START_BLOCK, [run.start_block for run in chained]),
            varint_field(_CONTEXT, context) if has_contexts else b"",
            varint_field(_ATTRIBUTION, attribution) if attributions else b"",
            varint_field(_GROUP, groups) if any(groups) else b"",
            *(map(_context_field, contexts) if has_contexts else ()),
            *map(_attribution_field, attributions),
            _rare_fields(runs, stored),
        )
    )


def _runs(events: Sequence[BlockEvent]) -> list[_Run]:
    """The events, where one that clears a tier is a removal of no blocks."""
    return [
        BlocksRemoved(_NO_HASHES, cast("Tier", event.tier or EVERY_TIER))
        if isinstance(event, BlocksCleared)
        else event
        for event in events
    ]


def _numbered(values: Sequence[_T | None]) -> tuple[list[_T], list[int]]:
    """A table of the values, equal ones once, and the number of each value in it, 0 for None."""
    table: dict[_T, int] = {}
    numbers: list[int] = []
    last, number = None, 0
    for value in values:
        if value is not last:
            last = value
            number = 0 if value is None else table.setdefault(value, len(table) + 1)
        numbers.append(number)
    return [*table], numbers


def _run_tokens(stored: Sequence[BlocksStored]) -> list[int]:
    run_tokens = [len(run.token_ids) for run in stored]
    check_tokens(run_tokens, [len(run.block_hashes) for run in stored])
    return run_tokens


def _rare_fields(runs: Sequence[_Run], stored: Sequence[BlocksStored]) -> bytes:
    """Media and sealed tokens."""
    media: list[MediaKey] = []
    has_media = [run.media for run in stored]
    if any(has_media):
        first = 0
        for run in runs:
            if isinstance(run, BlocksStored):
                media += _media(run, first)
            first += len(run.block_hashes)
    sealed = [
        pb.SealedRun(run=number, tokens=sealed_message(run.sealed))
        for number, run in enumerate(stored)
        if run.sealed is not None
    ]
    if not media and not sealed:
        return b""
    message = pb.BlockBatch(mm_keys=map(media_key_message, media), sealed=sealed)
    return message.SerializeToString()


def _media(run: BlocksStored, first: int) -> Iterator[MediaKey]:
    """Of a run whose first block is the batch's block `first`."""
    for key in run.media:
        if not 0 <= key.block_index < len(run.block_hashes):
            raise CodecError("blocks.mm_keys", f"block {key.block_index} is not in its run")
        yield replace(key, block_index=first + key.block_index)


@lru_cache(maxsize=_CACHED_FIELDS)
def _attribution_field(origin: Attribution) -> bytes:
    content = attribution_message(origin).SerializeToString()
    return delimited_field(_ATTRIBUTIONS, content)


@lru_cache(maxsize=_CACHED_FIELDS)
def _context_field(context: CacheContext) -> bytes:
    content = context_message(context).SerializeToString()
    return delimited_field(_CONTEXTS, content)
