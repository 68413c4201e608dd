"""One step's segments as the tensors of one forward pass, `[decodes | chunks]`.

Built on the host and moved to the device once; nothing here is done per layer.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence as ReadOnlyList
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from shepherd_worker.engine.embedded.layout import Segment
from shepherd_worker.engine.embedded.model.attention import ChunkRows, DecodeRows, PackedBatch
from shepherd_worker.engine.embedded.model.decode_mirror import DecodeMirror, Extent
from shepherd_worker.engine.embedded.model.kv_cache import PagedKvCache

_GROUP_BYTES = 8 << 20
"""About what a processor's cache holds: keys and values are read from it once they are gathered."""


@dataclass(frozen=True, slots=True)
class PackedStep:
    """What the model is called with, for T tokens."""

    token_ids: Tensor
    """[T]"""
    positions: Tensor
    """[T]"""
    attention: PackedBatch
    logit_rows: Tensor
    """Rows whose logits are computed: segment by segment as they were given, oldest token first."""
    stops: ReadOnlyList[int]
    """The row after the last of each segment, as they were given."""


def pack(
    segments: ReadOnlyList[Segment],
    cache: PagedKvCache,
    mirror: DecodeMirror,
    new_block_ids: ReadOnlyList[int] = (),
) -> PackedStep:
    """Lay out a step; segments of one token become decodes, which come first, the shortest first."""
    order = sorted(
        range(len(segments)),
        key=lambda i: segments[i].num_seen if len(segments[i].token_ids) == 1 else sys.maxsize,
    )
    decodes = [segments[i] for i in order if len(segments[i].token_ids) == 1]
    chunks = [segments[i] for i in order[len(decodes) :]]
    mirror.begin(decodes, new_block_ids)
    token_ids = array("I")
    stops = [0] * len(segments)
    for i in order:
        token_ids += segments[i].token_ids
        stops[i] = len(token_ids)
    places = [_decode_places(decodes, cache), *(_chunk_places(item, cache) for item in chunks)]
    rows = torch.cat([cache.row_index(blocks, positions) for blocks, positions in places])
    logit_rows = [
        row
        for stop, segment in zip(stops, segments, strict=True)
        for row in range(stop - segment.num_logits, stop)
    ]
    device = cache.device
    return PackedStep(
        token_ids=torch.frombuffer(token_ids, dtype=torch.int32).long().to(device),
        positions=torch.cat([positions for _, positions in places]).to(device),
        attention=PackedBatch(
            cache,
            mirror,
            rows.to(device),
            _decode_groups(decodes, cache, mirror),
            [_chunk_rows(segments[i], stops[i], cache) for i in order[len(decodes) :]],
        ),
        logit_rows=torch.tensor(logit_rows, dtype=torch.long, device=device),
        stops=stops,
    )


def _decode_places(decodes: ReadOnlyList[Segment], cache: PagedKvCache) -> tuple[Tensor, Tensor]:
    """Block and position of each decode's token."""
    blocks = [item.block_ids[item.start // cache.block_size] for item in decodes]
    positions = [item.start for item in decodes]
    return torch.tensor(blocks, dtype=torch.long), torch.tensor(positions, dtype=torch.long)


def _chunk_places(item: Segment, cache: PagedKvCache) -> tuple[Tensor, Tensor]:
    """Block and position of each of a chunk's tokens."""
    positions = torch.arange(item.start, item.num_seen)
    return torch.tensor(item.block_ids)[positions // cache.block_size], positions


def _decode_groups(
    decodes: ReadOnlyList[Segment], cache: PagedKvCache, mirror: DecodeMirror
) -> list[DecodeRows]:
    """The decodes in groups: as the mirror has them, else as they are gathered best."""
    mirrored = bool(mirror.extents)
    counts = [extent.count for extent in mirror.extents] or _group_counts(decodes, cache)
    stops = list(accumulate(counts))
    groups = [decodes[stop - count : stop] for count, stop in zip(counts, stops, strict=True)]
    if mirror.repeats and not mirrored:
        mirror.keep([(len(group), _num_blocks(group[-1], cache)) for group in groups])
    extents: list[Extent | None] = [*mirror.extents] or [None] * len(groups)
    return [
        _decode_rows(group, stop - len(group), cache, extent, add=mirrored)
        for group, stop, extent in zip(groups, stops, extents, strict=True)
    ]


def _group_counts(decodes: ReadOnlyList[Segment], cache: PagedKvCache) -> list[int]:
    """Decodes of about one length together, as many as gather no more than `_GROUP_BYTES` a layer."""
    block_bytes = cache.storage[0, 0].nbytes
    counts: list[int] = []
    for decode in decodes:
        together = counts[-1] + 1 if counts else 1
        if counts and together * _num_blocks(decode, cache) * block_bytes <= _GROUP_BYTES:
            counts[-1] = together
        else:
            counts.append(1)
    return counts


def _num_blocks(segment: Segment, cache: PagedKvCache) -> int:
    return -(-segment.num_seen // cache.block_size)


def _decode_rows(
    decodes: ReadOnlyList[Segment],
    start: int,
    cache: PagedKvCache,
    extent: Extent | None,
    *,
    add: bool,
) -> DecodeRows:
    """`add` says that the extent holds everything but the newest tokens."""
    num_seen = torch.tensor([item.num_seen for item in decodes])
    pages = newest = None
    if extent is not None and add:
        newest = (torch.arange(len(decodes)) * extent.width + num_seen - 1).to(cache.device)
    else:
        width = extent.width // cache.block_size if extent else _num_blocks(decodes[-1], cache)
        pages = _pages(decodes, width, cache)
    return DecodeRows(
        start=start,
        num_seen=num_seen.to(cache.device),
        longest=decodes[-1].num_seen,
        shortest=decodes[0].num_seen,
        pages=pages,
        extent=extent,
        newest=newest,
    )


def _pages(decodes: ReadOnlyList[Segment], width: int, cache: PagedKvCache) -> Tensor:
    blocks: list[int] = []
    for item in decodes:
        table = item.block_ids[: _num_blocks(item, cache)]
        blocks += table
        blocks += [table[0]] * (width - len(table))
    return torch.tensor(blocks).to(cache.device) * cache.pages_per_block


def _chunk_rows(item: Segment, stop: int, cache: PagedKvCache) -> ChunkRows:
    num_blocks = -(-item.num_seen // cache.block_size)
    blocks = torch.tensor(item.block_ids[:num_blocks], device=cache.device)
    return ChunkRows(stop - len(item.token_ids), stop, item.start, blocks * cache.pages_per_block)
