"""Attention that reads the cache where it lies, for devices that Triton compiles for.

Knows tensors and the kernels; what the numbers of a step mean is said in
`paged_layout`.  Decodes are split along their context so that a few long ones
fill the device too; into how many is fixed by their number alone, so that a
captured graph serves every length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from shepherd_worker.engine.embedded.model.attention import LayerCall
from shepherd_worker.engine.embedded.model.kv_cache import PagedKvCache
from shepherd_worker.engine.embedded.model.paged_kernels import (
    attend_kernel,
    combine_kernel,
    store_kernel,
)
from shepherd_worker.engine.embedded.model.paged_layout import TILE_NUMBERS, PagedLayout

CHUNK_TILE_ROWS = 64
"""Rows of a chunk's tile: tokens times the query heads that share a KV head."""
MIN_TILE_ROWS = 16
"""The matrix units take no fewer."""
MAX_SPLITS = 32
PROGRAMS_WANTED = 256
"""Enough for two on each multiprocessor of a large device."""


def choose_tile_tokens(group: int) -> int:
    """Tokens of a chunk's tile where `group` query heads share a KV head."""
    return max(1, CHUNK_TILE_ROWS // group)


def choose_num_splits(num_decodes: int, num_kv_heads: int) -> int:
    """A power of two, so that about `PROGRAMS_WANTED` programs attend to the decodes."""
    wanted = PROGRAMS_WANTED // (num_decodes * num_kv_heads)
    return min(MAX_SPLITS, 1 << max(0, wanted.bit_length() - 1))


@dataclass(frozen=True, slots=True)
class PagedInputs:
    """The numbers of a `PagedLayout` on the device, as views of one tensor."""

    token_ids: Tensor
    positions: Tensor
    rows: Tensor
    tiles: Tensor
    logit_rows: Tensor
    tables: Tensor

    @classmethod
    def view(cls, numbers: Tensor, layout: PagedLayout) -> PagedInputs:
        """`numbers` [at least as many as the layout has], int32."""
        tokens = layout.num_tokens
        tiles = TILE_NUMBERS * (layout.num_decodes + layout.num_chunk_tiles)
        sizes = [tokens, tokens, tokens, tiles, layout.num_logits or 0]
        taken = sum(sizes)
        views = torch.split(numbers[:taken], sizes)
        return cls(views[0], views[1], views[2], views[3], views[4], numbers[taken:])


class PagedBatch:
    """One step's attention; an `Attends`."""

    def __init__(self, cache: PagedKvCache, inputs: PagedInputs, num_decodes: int) -> None:
        self._cache = cache
        self._inputs = inputs
        self._num_decodes = num_decodes
        self._num_tiles = len(inputs.tiles) // TILE_NUMBERS

    def attend(self, call: LayerCall) -> Tensor:
        """See `Attends.attend`."""
        self._store(call)
        output = torch.empty(call.query.shape, dtype=call.query.dtype, device=call.query.device)
        if self._num_decodes:
            splits = choose_num_splits(self._num_decodes, call.key.shape[1])
            self._launch(call, output, 0, self._num_decodes, 1, splits)
        if self._num_tiles > self._num_decodes:
            tokens = choose_tile_tokens(call.query.shape[1] // call.key.shape[1])
            self._launch(call, output, self._num_decodes, self._num_tiles, tokens, 1)
        return output

    def _store(self, call: LayerCall) -> None:
        key, value = _dense_heads(call.key), _dense_heads(call.value)
        num_tokens, num_kv_heads, head_dim = key.shape
        key_row, value_row = self._cache.layer_rows(call.layer)
        store_kernel[(num_tokens,)](
            key,
            value,
            self._inputs.rows,
            self._cache.storage,
            key.stride(0),
            key.stride(1),
            value.stride(0),
            value.stride(1),
            key_row,
            value_row,
            num_kv_heads,
            head_dim,
            triton.next_power_of_2(num_kv_heads * head_dim),
        )

    def _launch(
        self,
        call: LayerCall,
        output: Tensor,
        first_tile: int,
        stop_tile: int,
        tile_tokens: int,
        splits: int,
    ) -> None:
        query = _dense_heads(call.query)
        num_heads, head_dim = query.shape[1:]
        num_kv_heads = call.key.shape[1]
        group, count = num_heads // num_kv_heads, stop_tile - first_tile
        tile_rows = max(MIN_TILE_ROWS, triton.next_power_of_2(tile_tokens * group))
        padded_dim = max(MIN_TILE_ROWS, triton.next_power_of_2(head_dim))
        shares = count * num_kv_heads * splits * tile_rows if splits > 1 else 0
        partial = query.new_empty((shares, padded_dim), dtype=torch.float32)
        bounds = query.new_empty((2, shares), dtype=torch.float32)
        wide = query.dtype == torch.float32
        key_row, value_row = self._cache.layer_rows(call.layer)
        attend_kernel[(count, num_kv_heads, splits)](
            query,
            self._cache.storage,
            self._inputs.tiles[TILE_NUMBERS * first_tile :],
            self._inputs.tables,
            output,
            partial,
            bounds[0],
            bounds[1],
            query.stride(0),
            query.stride(1),
            key_row,
            value_row,
            self._cache.rows_per_block,
            call.scale if call.scale is not None else head_dim**-0.5,
            call.window or 0,
            num_kv_heads,
            group,
            head_dim,
            padded_dim,
            self._cache.block_size,
            tile_rows,
            32 if wide or padded_dim > 128 else 64,
            splits,
            "ieee" if wide else "tf32",
            num_warps=4,
            num_stages=1 if wide else 2,
        )
        if splits > 1:
            combine_kernel[(count, num_heads)](
                partial,
                bounds[0],
                bounds[1],
                output[first_tile:],
                num_kv_heads,
                group,
                head_dim,
                padded_dim,
                tile_rows,
                splits,
            )


def _dense_heads(states: Tensor) -> Tensor:
    """The kernels step through tokens and heads, but not within a head."""
    return states if states.stride(-1) == 1 else states.contiguous()
