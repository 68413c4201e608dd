"""One step's work as the tensors of one forward pass, `[decodes | chunks]`.

Built on the host and moved to the device once; nothing here is done per layer.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence as ReadOnlyList
from dataclasses import dataclass

import torch
from torch import Tensor

from shepherd_worker.engine.embedded.attention import ChunkRows, DecodeRows, PackedBatch
from shepherd_worker.engine.embedded.kv_cache import PagedKvCache
from shepherd_worker.engine.embedded.scheduler import Work


@dataclass(frozen=True, slots=True)
class PackedStep:
    """What the model is called with, for T tokens."""

    token_ids: Tensor
    """[T]"""
    positions: Tensor
    """[T]"""
    attention: PackedBatch
    logit_rows: Tensor
    """Rows after which a token is sampled."""
    sampling: list[int]
    """The works these rows belong to, by their place in the plan."""


def pack(work: ReadOnlyList[Work], cache: PagedKvCache) -> PackedStep:
    """Lay out a step; works of one token become decodes, which come first."""
    order = sorted(range(len(work)), key=lambda i: work[i].num_tokens > 1)
    num_decodes = sum(1 for item in work if item.num_tokens == 1)
    token_ids = array("I")
    last_rows: list[int] = []
    for item in (work[i] for i in order):
        start = item.sequence.num_computed
        token_ids += item.sequence.token_ids[start : start + item.num_tokens]
        last_rows.append(len(token_ids) - 1)
    decodes = [work[i] for i in order[:num_decodes]]
    chunks = [work[i] for i in order[num_decodes:]]
    places = [_decode_places(decodes, cache), *(_chunk_places(item, cache) for item in chunks)]
    rows = torch.cat([cache.row_index(blocks, positions) for blocks, positions in places])
    sampled = [at for at, i in enumerate(order) if work[i].samples]
    device = cache.device
    return PackedStep(
        token_ids=torch.frombuffer(token_ids, dtype=torch.int32).long().to(device),
        positions=torch.cat([positions for _, positions in places]).to(device),
        attention=PackedBatch(
            cache,
            rows.to(device),
            _decode_rows(decodes, cache) if decodes else None,
            [
                _chunk_rows(item, last_row + 1, cache)
                for item, last_row in zip(chunks, last_rows[num_decodes:], strict=True)
            ],
        ),
        logit_rows=torch.tensor([last_rows[at] for at in sampled], dtype=torch.long, device=device),
        sampling=[order[at] for at in sampled],
    )


def _decode_places(decodes: ReadOnlyList[Work], cache: PagedKvCache) -> tuple[Tensor, Tensor]:
    """Block and position of each decode's token."""
    positions = [item.sequence.num_computed for item in decodes]
    blocks = [
        item.sequence.block_ids[position // cache.block_size]
        for item, position in zip(decodes, positions, strict=True)
    ]
    return torch.tensor(blocks, dtype=torch.long), torch.tensor(positions, dtype=torch.long)


def _chunk_places(item: Work, cache: PagedKvCache) -> tuple[Tensor, Tensor]:
    """Block and position of each of a chunk's tokens."""
    start = item.sequence.num_computed
    positions = torch.arange(start, start + item.num_tokens)
    return torch.tensor(item.sequence.block_ids)[positions // cache.block_size], positions


def _decode_rows(decodes: ReadOnlyList[Work], cache: PagedKvCache) -> DecodeRows:
    num_seen = [item.sequence.num_computed + 1 for item in decodes]
    width = -(-max(num_seen) // cache.block_size)
    blocks: list[int] = []
    for item in decodes:
        table = item.sequence.block_ids[:width]
        blocks += table
        blocks += table[:1] * (width - len(table))
    return DecodeRows(
        pages=torch.tensor(blocks).to(cache.device) * cache.pages_per_block,
        num_seen=torch.tensor(num_seen, device=cache.device),
        longest=max(num_seen),
        shortest=min(num_seen),
    )


def _chunk_rows(item: Work, stop: int, cache: PagedKvCache) -> ChunkRows:
    start = item.sequence.num_computed
    num_blocks = -(-(start + item.num_tokens) // cache.block_size)
    blocks = torch.tensor(item.sequence.block_ids[:num_blocks], device=cache.device)
    return ChunkRows(stop - item.num_tokens, stop, start, blocks * cache.pages_per_block)
