"""Block events to the bytes of a `BlockBatch`, its fields in the order of their numbers.

Equal contexts and attributions share one table entry.  The arrays of the events
are copied once, column by column.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

from shepherd_events.codec.columns import EVERY_TIER, Op, check_tokens
from shepherd_events.codec.packed_columns import (
    Part,
    delimited_field,
    field_head,
    fixed_field,
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
    SealedTokens,
    Tier,
)
from shepherd_events.v1 import kv_events_pb2 as pb

_DEFAULT_CONTEXTS = [CacheContext()]
_CACHED_FIELDS = 1024
_STORED, _REMOVED, _CLEARED, _REUSED = map(int, Op)

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


def batch_field(number: int, events: Iterable[BlockEvent]) -> list[bytes]:
    """The parts of a field that holds a `BlockBatch`.

    Raises:
        CodecError: an event that no reader would accept.
        TypeError, ValueError, OverflowError: a value that the wire cannot hold.
    """
    columns = _Columns()
    for event in events:
        columns.add(event)
    content = b"".join(columns.parts())
    return [field_head(number, len(content)), content]


class _Columns:
    """The columns of one batch; see `columns.py`."""

    def __init__(self) -> None:
        self.op = bytearray()
        self.run_len: list[int] = []
        self.tier: list[int] = []
        self.parent_hash: list[int] = []
        self.block_hash: list[array[int]] = []
        self.token_id: list[array[int]] = []
        self.run_tokens: list[int] = []
        self.start_block: list[int] = []
        self.context: list[int] = []
        self.attribution: list[int] = []
        self.group: list[int] = []
        self.contexts: dict[CacheContext, int] = {}
        self.attributions: dict[Attribution, int] = {}
        self._last_context: CacheContext | None = None
        self._context = 0
        self.media: list[MediaKey] = []
        self.sealed: list[tuple[int, SealedTokens]] = []

    def add(self, event: BlockEvent) -> None:
        """Append one event."""
        if isinstance(event, BlocksCleared):
            self.op.append(_CLEARED)
            self.run_len.append(0)
            self.tier.append(event.tier or EVERY_TIER)
            self.group.append(0)
            self.attribution.append(0)
        elif isinstance(event, BlocksRemoved):
            self._add_run(_REMOVED, event)
        else:
            if isinstance(event, BlocksStored):
                self._add_content(event)
                self._add_run(_STORED, event)
            else:
                self._add_run(_REUSED, event)
            self._add_link(event)

    def _add_run(self, op: int, event: BlocksStored | BlocksRemoved | BlocksReused) -> None:
        self.op.append(op)
        self.run_len.append(len(event.block_hashes))
        self.block_hash.append(event.block_hashes)
        self.tier.append(event.tier)
        self.group.append(event.group)
        origin = event.origin
        if origin is None:
            self.attribution.append(0)
        else:
            known = self.attributions
            self.attribution.append(known.setdefault(origin, len(known) + 1))

    def _add_link(self, event: BlocksStored | BlocksReused) -> None:
        if event.parent_hash == 0:
            raise CodecError("blocks.parent_hash", "0 is never a hash: the root's parent is None")
        self.parent_hash.append(event.parent_hash or 0)
        self.start_block.append(event.start_block)
        if event.context is not self._last_context:
            self._last_context = event.context
            self._context = self.contexts.setdefault(event.context, len(self.contexts) + 1)
        self.context.append(self._context)

    def _add_content(self, event: BlocksStored) -> None:
        num_tokens, num_blocks = len(event.token_ids), len(event.block_hashes)
        check_tokens(num_tokens, num_blocks)
        if event.sealed is not None:
            self.sealed.append((len(self.run_tokens), event.sealed))
        if event.media:
            first = sum(self.run_len)
            for key in event.media:
                if not 0 <= key.block_index < num_blocks:
                    raise CodecError("blocks.mm_keys", f"block {key.block_index} is not in its run")
                self.media.append(replace(key, block_index=first + key.block_index))
        self.run_tokens.append(num_tokens)
        self.token_id.append(event.token_ids)

    def parts(self) -> list[Part]:
        """The fields, without those that hold nothing but defaults."""
        default_tiers = self.tier.count(Tier.DEVICE) == len(self.tier)
        default_contexts = [*self.contexts] == _DEFAULT_CONTEXTS
        if 0 in array("Q", b"".join(self.block_hash)):
            raise CodecError("blocks.block_hash", "0 is never a hash")
        parent_hash = (array("Q", self.parent_hash),)
        parts: list[Part] = [
            delimited_field(_OP, self.op) if self.op else b"",
            varint_field(_RUN_LEN, self.run_len),
            b"" if default_tiers else varint_field(_TIER, self.tier),
            *fixed_field(_PARENT_HASH, "Q", parent_hash),
            *fixed_field(_BLOCK_HASH, "Q", self.block_hash),
            *fixed_field(_TOKEN_ID, "I", self.token_id),
            varint_field(_RUN_TOKENS, self.run_tokens),
            varint_field(_START_BLOCK, self.start_block),
        ]
        if not default_contexts:
            parts.append(varint_field(_CONTEXT, self.context))
        if self.attributions:
            parts.append(varint_field(_ATTRIBUTION, self.attribution))
        if any(self.group):
            parts.append(varint_field(_GROUP, self.group))
        if not default_contexts:
            parts.extend(map(_context_field, self.contexts))
        parts.extend(map(_attribution_field, self.attributions))
        if self.media or self.sealed:
            parts.append(self._rare_fields())
        return parts

    def _rare_fields(self) -> bytes:
        message = pb.BlockBatch(
            mm_keys=map(media_key_message, self.media),
            sealed=[
                pb.SealedRun(run=run, tokens=sealed_message(sealed)) for run, sealed in self.sealed
            ],
        )
        return message.SerializeToString()


@lru_cache(maxsize=_CACHED_FIELDS)
def _attribution_field(origin: Attribution) -> bytes:
    content = attribution_message(origin).SerializeToString()
    return delimited_field(_ATTRIBUTIONS, content)


@lru_cache(maxsize=_CACHED_FIELDS)
def _context_field(context: CacheContext) -> bytes:
    content = context_message(context).SerializeToString()
    return delimited_field(_CONTEXTS, content)
