"""Block batches: columns to bytes and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from shepherd_events.codec.columns import BlockColumns, Op, columns_of
from shepherd_events.codec.packed_columns import packed_field, unpack
from shepherd_events.codec.shared_messages import (
    attribution_message,
    attribution_of,
    context_message,
    context_of,
    media_key_message,
    media_key_of,
    sealed_message,
    sealed_of,
)
from shepherd_events.errors import CodecError
from shepherd_events.events import BlockEvent
from shepherd_events.v1 import kv_events_pb2 as pb


def encode_batch(events: Iterable[BlockEvent]) -> bytes:
    """The bytes of a `BlockBatch`, its fields in the order of their numbers.

    Raises:
        CodecError: an event that no reader would accept.
    """
    columns = columns_of(events)
    before = pb.BlockBatch(op=columns.op, run_len=columns.run_len, tier=columns.tier)
    after = pb.BlockBatch(
        run_tokens=columns.run_tokens,
        start_block=columns.start_block,
        context=columns.context,
        attribution=columns.attribution,
        group=columns.group,
        contexts=[context_message(context) for context in columns.contexts],
        attributions=[attribution_message(origin) for origin in columns.attributions],
        mm_keys=[media_key_message(key) for key in columns.media],
        sealed=[
            pb.SealedRun(run=run, tokens=sealed_message(sealed))
            for run, sealed in columns.sealed.items()
        ],
    )
    return b"".join(
        (
            before.SerializeToString(),
            packed_field(pb.BlockBatch.PARENT_HASH_FIELD_NUMBER, columns.parent_hash),
            packed_field(pb.BlockBatch.BLOCK_HASH_FIELD_NUMBER, columns.block_hash),
            packed_field(pb.BlockBatch.TOKEN_ID_FIELD_NUMBER, columns.token_id),
            after.SerializeToString(),
        )
    )


def decode_batch(view: Any, as_published: Callable[[], Any]) -> tuple[BlockEvent, ...]:
    """The events of a batch; `as_published` parses it again with typed columns.

    Raises:
        CodecError: the batch contradicts itself or holds unknown numbers.
    """
    columns = _columns(view)
    if columns is None or not _is_whole(columns):
        columns = _columns(as_published())
    if columns is None:
        raise CodecError("blocks", "a column is not a whole number of entries")
    return columns.events()


def _is_whole(columns: BlockColumns) -> bool:
    """Whether no chunk of a fixed column can be missing."""
    return (
        len(columns.block_hash) == sum(columns.run_len)
        and len(columns.parent_hash) == columns.num_chain_runs()
        and len(columns.run_tokens) == columns.op.count(Op.STORED)
        and len(columns.token_id) == sum(columns.run_tokens)
    )


def _columns(batch: Any) -> BlockColumns | None:
    """The columns of a batch message; None where bytes are no whole number of entries."""
    try:
        fixed = {
            "parent_hash": unpack("Q", batch.parent_hash),
            "block_hash": unpack("Q", batch.block_hash),
            "token_id": unpack("I", batch.token_id),
        }
    except ValueError:
        return None
    return BlockColumns(
        op=list(batch.op),
        run_len=list(batch.run_len),
        tier=list(batch.tier),
        run_tokens=list(batch.run_tokens),
        start_block=list(batch.start_block),
        context=list(batch.context),
        attribution=list(batch.attribution),
        group=list(batch.group),
        contexts=[context_of(context) for context in batch.contexts],
        attributions=[attribution_of(origin) for origin in batch.attributions],
        media=[media_key_of(key) for key in batch.mm_keys],
        sealed={entry.run: sealed_of(entry.tokens) for entry in batch.sealed},
        **fixed,
    )
