"""The columns of a `BlockBatch` to block events.

Columns are believed only after it was checked that their lengths agree.  Each
event gets arrays of its own, so that keeping one keeps no frame.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import compress, repeat
from typing import Any, TypeVar

from shepherd_events.codec import drafts
from shepherd_events.codec.columns import EVERY_TIER, Op, check_hashes, check_tokens
from shepherd_events.codec.drafts import Link, Place
from shepherd_events.codec.packed_columns import unpack_fixed, unpack_varints
from shepherd_events.codec.shared_messages import (
    attribution_of,
    context_of,
    media_key_of,
    sealed_of,
)
from shepherd_events.errors import CodecError
from shepherd_events.events import (
    Attribution,
    BlockEvent,
    BlockHash,
    BlocksCleared,
    BlocksReused,
    BlocksStored,
    CacheContext,
    MediaKey,
    Tier,
)

_T = TypeVar("_T")

_Numbers = Callable[[Any], Sequence[int]]
"""The entries of a column of varints."""

_DEFAULT_CONTEXT = CacheContext()
_DEFAULT_PLACE: Place = (Tier.DEVICE, 0, None)
_STORED, _REMOVED, _CLEARED, _REUSED = map(int, Op)


def decode_batch(
    view: Any, as_published: Callable[[], Any], *, is_whole: bool
) -> tuple[BlockEvent, ...]:
    """The events of a batch; `as_published` parses it again with typed columns.

    Raises:
        CodecError: the batch contradicts itself or holds unknown numbers.
    """
    if is_whole:
        try:
            return _events(view, unpack_varints)
        except ValueError:
            """Not as writers write it: protobuf itself may know what it says."""
    try:
        return _events(as_published(), list)
    except ValueError as error:
        raise CodecError("blocks", str(error)) from error


def _events(batch: Any, numbers: _Numbers) -> tuple[BlockEvent, ...]:
    op, run_len = numbers(batch.op), numbers(batch.run_len)
    block_hash, token_id = unpack_fixed("Q", batch.block_hash), unpack_fixed("I", batch.token_id)
    _expect("run_len", run_len, len(op))
    _expect("block_hash", block_hash, sum(run_len))
    check_hashes(block_hash.tobytes())
    num_stored = op.count(_STORED)
    links = iter(_links(batch, numbers, num_stored + op.count(_REUSED)))
    stored = run_len if num_stored == len(op) else compress(run_len, map(_STORED.__eq__, op))
    run_tokens = iter(_run_tokens(numbers(batch.run_tokens), [*stored], len(token_id)))
    events: list[BlockEvent] = []
    end = tokens_end = 0
    for code, length, place in zip(op, run_len, _places(batch, numbers, op), strict=False):
        start, end = end, end + length
        hashes = block_hash[start:end]
        if code == _STORED:
            start, tokens_end = tokens_end, tokens_end + next(run_tokens)
            tokens = token_id[start:tokens_end]
            events.append(drafts.blocks_stored(hashes, tokens, next(links), place))
        elif code == _REMOVED:
            events.append(drafts.blocks_removed(hashes, place))
        elif code == _REUSED:
            events.append(_reused(hashes, next(links), place))
        elif code == _CLEARED:
            _expect("run_len", hashes, 0)
            events.append(BlocksCleared(place[0]))
        else:
            raise CodecError("blocks.op", f"{code} is not known")
    _expect("token_id", token_id, tokens_end)
    if batch.mm_keys or batch.sealed:
        return _completed(events, batch)
    return tuple(events)


def _links(batch: Any, numbers: _Numbers, num_chains: int) -> Iterator[Link]:
    """Of each STORED or REUSED run."""
    parent_hash, start_block = unpack_fixed("Q", batch.parent_hash), numbers(batch.start_block)
    _expect("parent_hash", parent_hash, num_chains)
    _expect("start_block", start_block, num_chains)
    contexts: Iterable[CacheContext] = repeat(_DEFAULT_CONTEXT)
    if batch.context:
        table = (_DEFAULT_CONTEXT, *map(context_of, batch.contexts))
        contexts = _entries("context", numbers(batch.context), table, num_chains)
    return zip(parent_hash, start_block, contexts, strict=False)


def _places(batch: Any, numbers: _Numbers, op: Sequence[int]) -> Iterable[Place]:
    """Of each run."""
    if not (batch.tier or batch.group or batch.attribution):
        return repeat(_DEFAULT_PLACE)
    num_runs = len(op)
    tiers: Iterable[Tier | None] = repeat(Tier.DEVICE)
    groups: Iterable[int] = repeat(0)
    origins: Iterable[Attribution | None] = repeat(None)
    if batch.tier:
        tier = numbers(batch.tier)
        _expect("tier", tier, num_runs)
        tiers = map(_tier, tier, op)
    if batch.group:
        groups = numbers(batch.group)
        _expect("group", groups, num_runs)
    if batch.attribution:
        table = (None, *map(attribution_of, batch.attributions))
        origins = _entries("attribution", numbers(batch.attribution), table, num_runs)
    return zip(tiers, groups, origins, strict=False)


def _run_tokens(run_tokens: Sequence[int], stored: Sequence[int], num_tokens: int) -> Sequence[int]:
    """Tokens of each STORED run, also of a batch that leaves the column out."""
    if run_tokens:
        _expect("run_tokens", run_tokens, len(stored))
        check_tokens(run_tokens, stored)
        return run_tokens
    num_blocks = sum(stored)
    if num_blocks == 0:
        return [0] * len(stored)
    block_size, rest = divmod(num_tokens, num_blocks)
    if block_size == 0 or rest:
        raise CodecError(
            "blocks.token_id",
            f"{num_tokens} tokens are not as many for each of {num_blocks} blocks",
        )
    return [length * block_size for length in stored]


def _reused(hashes: array[int], link: Link, place: Place) -> BlocksReused:
    parent, position, context = link
    tier, group, origin = place
    assert tier is not None, "only a CLEARED run has every tier"
    return BlocksReused(
        hashes, BlockHash(parent) if parent else None, position, tier, context, origin, group
    )


def _completed(events: list[BlockEvent], batch: Any) -> tuple[BlockEvent, ...]:
    """The events with what few of them have: media and sealed tokens."""
    media = deque(map(media_key_of, batch.mm_keys))
    sealed = {entry.run: sealed_of(entry.tokens) for entry in batch.sealed}
    first, stored_before = 0, 0
    for at, event in enumerate(events):
        end = first + (0 if isinstance(event, BlocksCleared) else len(event.block_hashes))
        if isinstance(event, BlocksStored):
            keys: list[MediaKey] = []
            while media and first <= media[0].block_index < end:
                key = media.popleft()
                keys.append(replace(key, block_index=key.block_index - first))
            events[at] = replace(event, media=tuple(keys), sealed=sealed.pop(stored_before, None))
            stored_before += 1
        first = end
    if media:
        raise CodecError("blocks.mm_keys", f"block {media[0].block_index} is in no run, or late")
    if sealed:
        raise CodecError("blocks.sealed", f"run {min(sealed)} of {stored_before} stored ones")
    return tuple(events)


def _entries(column: str, indices: Sequence[int], table: Sequence[_T], count: int) -> list[_T]:
    """What each of `count` indices stands for."""
    _expect(column, indices, count)
    try:
        return [table[index] for index in indices]
    except IndexError:
        problem = f"entry {max(indices)} of a table of {len(table) - 1}"
        raise CodecError(f"blocks.{column}", problem) from None


def _tier(number: int, op: int) -> Tier | None:
    if number == EVERY_TIER and op == _CLEARED:
        return None
    try:
        return Tier(number)
    except ValueError:
        raise CodecError("blocks.tier", f"{number} is not known") from None


def _expect(column: str, entries: Sequence[object], expected: int) -> None:
    if len(entries) != expected:
        raise CodecError(f"blocks.{column}", f"expected {expected} in all, found {len(entries)}")
