"""Block events as a struct of arrays: the layout of a batch, without its bytes.

Run i applies `op[i]` to the next `run_len[i]` hashes; columns that concern only
some runs have one entry per such run.  Hashes and tokens of all events lie
behind each other in one array each, so that a batch is written and read without
one Python object per token.  Columns that came from elsewhere are believed only
after `events` has checked that their lengths agree.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import TypeVar

from shepherd_events.errors import CodecError
from shepherd_events.events import (
    Attribution,
    BlockEvent,
    BlockHash,
    BlocksCleared,
    BlocksRemoved,
    BlocksReused,
    BlocksStored,
    CacheContext,
    MediaKey,
    SealedTokens,
    Tier,
)

_T = TypeVar("_T")

EVERY_TIER = 0
"""In the tier column of a CLEARED run."""


class Op(IntEnum):
    """What a run does; the numbers are those on the wire."""

    STORED = 1
    REMOVED = 2
    CLEARED = 3
    REUSED = 4


_CHAIN_OPS = frozenset({Op.STORED, Op.REUSED})


@dataclass(slots=True)
class BlockColumns:
    """The columns of one batch; see the module's docstring."""

    op: list[int] = field(default_factory=list)
    run_len: list[int] = field(default_factory=list)
    tier: list[int] = field(default_factory=list)
    """Empty: the device, throughout."""
    parent_hash: array[int] = field(default_factory=lambda: array("Q"))
    """Per STORED or REUSED run; 0 at the root of a chain."""
    block_hash: array[int] = field(default_factory=lambda: array("Q"))
    token_id: array[int] = field(default_factory=lambda: array("I"))
    run_tokens: list[int] = field(default_factory=list)
    """Per STORED run; empty: the same number for every block."""
    start_block: list[int] = field(default_factory=list)
    """Per STORED or REUSED run."""
    context: list[int] = field(default_factory=list)
    """Per STORED or REUSED run, index into `contexts` from 1; empty: the default one."""
    attribution: list[int] = field(default_factory=list)
    """Per run, index into `attributions` from 1, 0 for none; empty: none at all."""
    group: list[int] = field(default_factory=list)
    """Per run; empty: group 0."""
    contexts: list[CacheContext] = field(default_factory=list)
    attributions: list[Attribution] = field(default_factory=list)
    media: list[MediaKey] = field(default_factory=list)
    """Of STORED runs; their blocks are counted through the whole batch."""
    sealed: dict[int, SealedTokens] = field(default_factory=dict)
    """By index among the STORED runs."""

    def num_chain_runs(self) -> int:
        """Runs that have a parent, a start and a context."""
        return sum(op in _CHAIN_OPS for op in self.op)

    def events(self) -> tuple[BlockEvent, ...]:
        """The batch as events.

        Raises:
            CodecError: the columns contradict one another or hold unknown numbers.
        """
        return tuple(_Reader(self).events())


def columns_of(events: Iterable[BlockEvent]) -> BlockColumns:
    """The columns of a batch; equal contexts and attributions share one table entry.

    Raises:
        CodecError: an event that no reader would accept.
    """
    columns = BlockColumns()
    contexts: dict[CacheContext, int] = {}
    attributions: dict[Attribution, int] = {}
    for event in events:
        match event:
            case BlocksCleared():
                _append_run(columns, Op.CLEARED, 0, event.tier or EVERY_TIER, 0)
                columns.attribution.append(0)
                continue
            case BlocksRemoved():
                op = Op.REMOVED
            case BlocksReused():
                op = Op.REUSED
            case BlocksStored():
                op = Op.STORED
                if event.sealed is not None:
                    columns.sealed[len(columns.run_tokens)] = event.sealed
                _append_tokens(columns, event)
                _append_media(columns, event)
        _append_hashes(columns, event.block_hashes)
        _append_run(columns, op, len(event.block_hashes), event.tier, event.group)
        origin = event.origin
        columns.attribution.append(
            0 if origin is None else attributions.setdefault(origin, len(attributions) + 1)
        )
        if not isinstance(event, BlocksRemoved):
            columns.parent_hash.append(_parent_column(event.parent_hash))
            columns.start_block.append(event.start_block)
            columns.context.append(contexts.setdefault(event.context, len(contexts) + 1))
    columns.contexts, columns.attributions = list(contexts), list(attributions)
    _leave_out_defaults(columns)
    return columns


def _append_run(columns: BlockColumns, op: Op, run_len: int, tier: int, group: int) -> None:
    columns.op.append(op)
    columns.run_len.append(run_len)
    columns.tier.append(tier)
    columns.group.append(group)


def _append_hashes(columns: BlockColumns, block_hashes: array[int]) -> None:
    if 0 in block_hashes:
        raise CodecError("blocks.block_hash", "0 is never a hash")
    columns.block_hash.extend(block_hashes)


def _append_tokens(columns: BlockColumns, event: BlocksStored) -> None:
    _check_tokens(len(event.token_ids), len(event.block_hashes))
    columns.run_tokens.append(len(event.token_ids))
    columns.token_id.extend(event.token_ids)


def _append_media(columns: BlockColumns, event: BlocksStored) -> None:
    first = len(columns.block_hash)
    for key in event.media:
        if not 0 <= key.block_index < len(event.block_hashes):
            raise CodecError("blocks.mm_keys", f"block {key.block_index} is not in its run")
        columns.media.append(replace(key, block_index=first + key.block_index))


def _parent_column(parent_hash: BlockHash | None) -> int:
    if parent_hash == 0:
        raise CodecError("blocks.parent_hash", "0 is never a hash: the root's parent is None")
    return parent_hash or 0


def _check_tokens(num_tokens: int, num_blocks: int) -> None:
    if num_tokens and (num_blocks == 0 or num_tokens % num_blocks):
        raise CodecError(
            "blocks.run_tokens", f"{num_tokens} tokens cannot fill {num_blocks} blocks alike"
        )


def _leave_out_defaults(columns: BlockColumns) -> None:
    if all(tier == Tier.DEVICE for tier in columns.tier):
        columns.tier = []
    if not any(columns.attribution):
        columns.attribution = []
    if not any(columns.group):
        columns.group = []
    if columns.contexts == [CacheContext()]:
        columns.contexts, columns.context = [], []


class _Reader:
    """Walks the columns of one batch once."""

    def __init__(self, columns: BlockColumns) -> None:
        self._columns = columns
        self._hashes_read = 0
        self._tokens_read = 0
        num_runs, num_chains = len(columns.op), columns.num_chain_runs()
        num_stored = columns.op.count(Op.STORED)
        _expect("run_len", len(columns.run_len), num_runs)
        _expect("tier", len(columns.tier), num_runs, optional=True)
        _expect("group", len(columns.group), num_runs, optional=True)
        _expect("attribution", len(columns.attribution), num_runs, optional=True)
        _expect("parent_hash", len(columns.parent_hash), num_chains)
        _expect("start_block", len(columns.start_block), num_chains)
        _expect("context", len(columns.context), num_chains, optional=True)
        _expect("run_tokens", len(columns.run_tokens), num_stored, optional=True)
        _expect("block_hash", len(columns.block_hash), sum(columns.run_len))
        if 0 in columns.block_hash:
            raise CodecError("blocks.block_hash", "0 is never a hash")
        self._run_tokens = iter(columns.run_tokens or self._equal_run_tokens())
        self._parents = iter(columns.parent_hash)
        self._starts = iter(columns.start_block)
        self._contexts = iter(columns.context or [0] * num_chains)
        self._context_table = (CacheContext(), *columns.contexts)
        self._attribution_table = (None, *columns.attributions)
        self._media = deque(columns.media)
        self._stored_read = 0
        for run in columns.sealed:
            if run >= num_stored:
                raise CodecError("blocks.sealed", f"run {run} of {num_stored} stored ones")

    def events(self) -> Iterator[BlockEvent]:
        columns = self._columns
        num_runs = len(columns.op)
        tiers = columns.tier or [Tier.DEVICE] * num_runs
        groups = columns.group or [0] * num_runs
        attributions = columns.attribution or [0] * num_runs
        for op, run_len, tier, group, attribution in zip(
            columns.op, columns.run_len, tiers, groups, attributions, strict=True
        ):
            origin = _entry("attribution", self._attribution_table, attribution)
            yield self._event(op, run_len, tier, group, origin)
        _expect("token_id", len(columns.token_id), self._tokens_read)
        _expect("mm_keys", len(columns.media), len(columns.media) - len(self._media))

    def _event(
        self, op: int, run_len: int, tier: int, group: int, origin: Attribution | None
    ) -> BlockEvent:
        if op == Op.CLEARED:
            _expect("run_len", run_len, 0)
            return BlocksCleared(None if tier == EVERY_TIER else _tier(tier))
        block_hashes = self._take_hashes(run_len)
        match op:
            case Op.REMOVED:
                return BlocksRemoved(block_hashes, _tier(tier), origin, group)
            case Op.STORED:
                token_ids, media = self._take_tokens(run_len), self._take_media(run_len)
                parent, start, context = self._link()
                tier = _tier(tier)
                sealed = self._columns.sealed.get(self._stored_read)
                self._stored_read += 1
                return BlocksStored(
                    block_hashes,
                    parent,
                    token_ids,
                    start,
                    tier,
                    context,
                    origin,
                    group,
                    media,
                    sealed,
                )
            case Op.REUSED:
                parent, start, context = self._link()
                return BlocksReused(
                    block_hashes, parent, start, _tier(tier), context, origin, group
                )
            case _:
                raise CodecError("blocks.op", f"{op} is not known")

    def _link(self) -> tuple[BlockHash | None, int, CacheContext]:
        parent = next(self._parents)
        context = _entry("context", self._context_table, next(self._contexts))
        return (BlockHash(parent) if parent else None), next(self._starts), context

    def _take_hashes(self, count: int) -> array[int]:
        start = self._hashes_read
        self._hashes_read += count
        return self._columns.block_hash[start : self._hashes_read]

    def _take_tokens(self, num_blocks: int) -> array[int]:
        count = next(self._run_tokens)
        _check_tokens(count, num_blocks)
        start = self._tokens_read
        self._tokens_read += count
        return self._columns.token_id[start : self._tokens_read]

    def _take_media(self, num_blocks: int) -> tuple[MediaKey, ...]:
        """The keys of the run whose hashes were taken last; the column is in their order."""
        first, taken = self._hashes_read - num_blocks, list[MediaKey]()
        while self._media and first <= self._media[0].block_index < self._hashes_read:
            key = self._media.popleft()
            taken.append(replace(key, block_index=key.block_index - first))
        return tuple(taken)

    def _equal_run_tokens(self) -> list[int]:
        """Tokens per STORED run of a batch that leaves the column out."""
        columns = self._columns
        stored = [
            length
            for op, length in zip(columns.op, columns.run_len, strict=True)
            if op == Op.STORED
        ]
        num_blocks = sum(stored)
        if num_blocks == 0:
            return [0] * len(stored)
        block_size, rest = divmod(len(columns.token_id), num_blocks)
        if block_size == 0 or rest:
            raise CodecError(
                "blocks.token_id",
                f"{len(columns.token_id)} tokens are not as many for each of {num_blocks} blocks",
            )
        return [length * block_size for length in stored]


def _expect(column: str, actual: int, expected: int, *, optional: bool = False) -> None:
    if actual != expected and not (optional and actual == 0):
        raise CodecError(f"blocks.{column}", f"expected {expected} in all, found {actual}")


def _entry(column: str, table: Sequence[_T], index: int) -> _T:
    if index >= len(table):
        raise CodecError(f"blocks.{column}", f"entry {index} of a table of {len(table) - 1}")
    return table[index]


def _tier(number: int) -> Tier:
    try:
        return Tier(number)
    except ValueError:
        raise CodecError("blocks.tier", f"{number} is not known") from None
