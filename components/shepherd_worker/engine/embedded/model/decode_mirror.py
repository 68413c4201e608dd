"""Keys and values of the running decodes, kept gathered from one step to the next.

Gathering what attention reads costs as much as reading it.  While the same
sequences decode together, each step adds one row to each of them; everything
before it is what the last step gathered.

    step                                what is done
    ---------------------------------   -------------------------------------------
    other decodes than in the last      gather, and remember who they are
    the same again                      gather into the mirror, with room to grow
    the same again, mirrored            add one row to each

A decode is the same when its block table goes on where it ended and nobody
wrote to these blocks.  The mirror never holds more than `MIRROR_BYTES`: with
more to keep, every step gathers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shepherd_worker.engine.embedded.layout import Segment
from shepherd_worker.engine.embedded.model.kv_cache import PagedKvCache

MIRROR_BYTES = 1 << 30
ROOM_BLOCKS = 4
"""Blocks that a mirrored sequence can grow by before it is gathered again."""


@dataclass(frozen=True, slots=True)
class _Decode:
    """A decode of the last step."""

    block_ids: list[int]
    start: int

    def goes_on_as(self, segment: Segment) -> bool:
        """Whether `segment` is the next token of the same sequence."""
        table = self.block_ids
        return segment.start == self.start + 1 and list(segment.block_ids[: len(table)]) == table


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a group of decodes lies in each layer of the mirror."""

    first: int
    """Row of the mirror at which the group begins."""
    count: int
    """Decodes."""
    width: int
    """Rows of each decode, room included."""


class DecodeMirror:
    """See the module's docstring; for one thread."""

    def __init__(self, cache: PagedKvCache, *, max_bytes: int = MIRROR_BYTES) -> None:
        self._cache = cache
        self._max_bytes = max_bytes
        self._last: list[_Decode] = []
        self._generation = cache.generation
        self._kept: Tensor | None = None
        self.extents: list[Extent] = []
        """Of the groups that are mirrored, in the order of their rows."""
        self.repeats = False
        """Whether the decodes of this step are those of the last."""

    def begin(self, decodes: Sequence[Segment], new_block_ids: Sequence[int]) -> None:
        """Say which decodes a step has, in the order of their rows."""
        self.repeats = self._repeats(decodes, new_block_ids)
        self._generation = self._cache.generation
        size = self._cache.block_size
        self._last = [
            _Decode(list(item.block_ids[: item.start // size + 1]), item.start) for item in decodes
        ]
        if not self.repeats or any(
            item.num_seen > extent.width
            for extent, group in self._grouped(decodes)
            for item in group
        ):
            self.extents = []

    def keep(self, groups: Sequence[tuple[int, int]]) -> None:
        """Have place for groups of (decodes, blocks of the longest); without effect if it is too much."""
        size, extents, first = self._cache.block_size, list[Extent](), 0
        for count, num_blocks in groups:
            extents.append(Extent(first, count, (num_blocks + ROOM_BLOCKS) * size))
            first += count * extents[-1].width
        geometry = self._cache.geometry
        heads = (geometry.num_kv_heads, geometry.head_dim)
        shape = (geometry.num_layers, 2, first, *heads)
        storage = self._cache.storage
        if storage.element_size() * torch.Size(shape).numel() > self._max_bytes:
            return
        if self._kept is None or self._kept.shape[2] < first:
            self._kept = storage.new_empty(shape)
        self.extents = extents

    def fill(self, layer: int, extent: Extent, pages: Tensor) -> tuple[Tensor, Tensor]:
        """Gather `pages` [count * width / block_size]; keys and values as `states` gives them."""
        for part, target in enumerate(self._rows(layer, extent)):
            self._cache.gather_into(target, 2 * layer + part, pages)
        return self._states(layer, extent)

    def add(
        self, layer: int, extent: Extent, rows: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Put new keys and values [count, num_kv_heads, head_dim] at `rows` [count] of the group."""
        for target, source in zip(self._rows(layer, extent), (keys, values), strict=True):
            target.index_copy_(0, rows, source)
        return self._states(layer, extent)

    def _repeats(self, decodes: Sequence[Segment], new_block_ids: Sequence[int]) -> bool:
        if self._generation != self._cache.generation or len(decodes) != len(self._last):
            return False
        written = set(new_block_ids)
        return all(
            last.goes_on_as(item) and written.isdisjoint(last.block_ids)
            for last, item in zip(self._last, decodes, strict=True)
        )

    def _grouped(self, decodes: Sequence[Segment]) -> list[tuple[Extent, Sequence[Segment]]]:
        grouped, start = [], 0
        for extent in self.extents:
            grouped.append((extent, decodes[start : start + extent.count]))
            start += extent.count
        return grouped

    def _rows(self, layer: int, extent: Extent) -> tuple[Tensor, Tensor]:
        """Keys and values of a group, [count * width, num_kv_heads, head_dim]."""
        assert self._kept is not None
        stop = extent.first + extent.count * extent.width
        keys, values = self._kept[layer, :, extent.first : stop]
        return keys, values

    def _states(self, layer: int, extent: Extent) -> tuple[Tensor, Tensor]:
        """The same, [count, width, num_kv_heads, head_dim]."""
        keys, values = self._rows(layer, extent)
        shape = (extent.count, extent.width, *keys.shape[1:])
        return keys.view(shape), values.view(shape)
