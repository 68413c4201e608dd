"""Triton kernels that read and write the paged cache where it lies.

One program of `attend_kernel` computes one tile for one KV head: the queries of
a tile's tokens and of all heads that share the KV head stand in one matrix, so
that keys and values are read once for all of them.  Blocks are found through the
block table; nothing is gathered.  Decodes are split along their context, because
one program per sequence would leave most of the device idle, and
`combine_kernel` puts the splits together.  The numbers of a step lie wherever they
come to lie: nothing is compiled anew for that.

Source: the online softmax of FlashAttention (arXiv:2205.14135) and the split of
Flash-Decoding (https://crfm.stanford.edu/2023/10/12/flashdecoding.html).
"""

from __future__ import annotations

import triton
import triton.language as tl

_LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit(do_not_specialize_on_alignment=["rows"])
def store_kernel(
    key,
    value,
    rows,
    storage,
    key_token_stride,
    key_head_stride,
    value_token_stride,
    value_head_stride,
    key_row,
    value_row,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write one token's keys and values to its row; a row of -1 is padding."""
    token = tl.program_id(0)
    row = tl.load(rows + token).to(tl.int64)
    if row >= 0:
        at = tl.arange(0, BLOCK)
        inside = at < NUM_KV_HEADS * HEAD_DIM
        head, dim = at // HEAD_DIM, at % HEAD_DIM
        row_size = NUM_KV_HEADS * HEAD_DIM
        keys = tl.load(key + token * key_token_stride + head * key_head_stride + dim, mask=inside)
        values = tl.load(
            value + token * value_token_stride + head * value_head_stride + dim, mask=inside
        )
        tl.store(storage + (row + key_row) * row_size + at, keys, mask=inside)
        tl.store(storage + (row + value_row) * row_size + at, values, mask=inside)


@triton.jit
def _share_of_context(
    first_position,
    end,
    split,
    WINDOW: tl.constexpr,
    STEP: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
):
    """Positions [begin, end) that a split of a tile attends to; they may be none."""
    begin = first_position * 0
    if WINDOW > 0:
        begin = tl.maximum(first_position - WINDOW + 1, 0) // STEP * STEP
    if NUM_SPLITS > 1:
        share = tl.cdiv(tl.cdiv(end - begin, NUM_SPLITS), STEP) * STEP
        begin += split * share
        end = tl.minimum(end, begin + share)
    return begin, end


@triton.jit
def _mix_values(
    queries,
    storage,
    table,
    kv_head,
    own,
    begin,
    end,
    key_row,
    value_row,
    rows_per_block,
    scale,
    WINDOW: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    STEP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Values of positions [begin, end) by their weights, the weights' sum, and the best score."""
    dims = tl.arange(0, PADDED_DIM)
    in_dim = dims < HEAD_DIM
    top = tl.full([TILE_ROWS], float("-inf"), tl.float32)
    total = tl.zeros([TILE_ROWS], tl.float32)
    mixed = tl.zeros([TILE_ROWS, PADDED_DIM], tl.float32)
    for start in range(begin, end, STEP):
        seen = start + tl.arange(0, STEP)
        valid = seen < end
        block = tl.load(table + seen // BLOCK_SIZE, mask=valid, other=0).to(tl.int64)
        row = (block * rows_per_block + seen % BLOCK_SIZE) * NUM_KV_HEADS + kv_head
        key_at = (row + key_row * NUM_KV_HEADS) * HEAD_DIM
        value_at = (row + value_row * NUM_KV_HEADS) * HEAD_DIM
        keys = tl.load(
            storage + key_at[None, :] + dims[:, None],
            mask=valid[None, :] & in_dim[:, None],
            other=0.0,
        )
        scores = tl.dot(queries, keys, input_precision=PRECISION) * (scale * _LOG2_E)
        visible = valid[None, :] & (seen[None, :] <= own[:, None])
        if WINDOW > 0:
            visible = visible & (seen[None, :] > own[:, None] - WINDOW)
        scores = tl.where(visible, scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        safe_top = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights = tl.exp2(scores - safe_top[:, None])
        fade = tl.exp2(top - safe_top)
        values = tl.load(
            storage + value_at[:, None] + dims[None, :],
            mask=valid[:, None] & in_dim[None, :],
            other=0.0,
        )
        total = total * fade + tl.sum(weights, 1)
        mixed = mixed * fade[:, None]
        mixed += tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
        top = new_top
    return mixed, total, top


@triton.jit(do_not_specialize_on_alignment=["tiles", "tables"])
def attend_kernel(
    query,
    storage,
    tiles,
    tables,
    output,
    partial,
    partial_max,
    partial_sum,
    query_token_stride,
    query_head_stride,
    key_row,
    value_row,
    rows_per_block,
    scale,
    WINDOW: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    STEP: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Attend one tile; with splits, one share of its context, not yet normalised."""
    tile, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    table = tables + tl.load(tiles + 4 * tile)
    first_row = tl.load(tiles + 4 * tile + 1)
    num_tokens = tl.load(tiles + 4 * tile + 2)
    first_position = tl.load(tiles + 4 * tile + 3)

    at = tl.arange(0, TILE_ROWS)
    dims = tl.arange(0, PADDED_DIM)
    token = at // GROUP
    head = kv_head * GROUP + at % GROUP
    own = first_position + token
    real = token < num_tokens
    in_dim = dims < HEAD_DIM
    in_query = real[:, None] & in_dim[None, :]
    query_at = (first_row + token) * query_token_stride + head * query_head_stride
    queries = tl.load(query + query_at[:, None] + dims[None, :], mask=in_query, other=0.0)

    end = first_position + num_tokens
    begin, end = _share_of_context(first_position, end, split, WINDOW, STEP, NUM_SPLITS)
    mixed, total, top = _mix_values(
        queries, storage, table, kv_head, own, begin, end, key_row, value_row, rows_per_block,
        scale, WINDOW, NUM_KV_HEADS, HEAD_DIM, PADDED_DIM, BLOCK_SIZE, TILE_ROWS, STEP, PRECISION,
    )  # fmt: skip
    if NUM_SPLITS == 1:
        mixed = mixed / tl.where(total == 0.0, 1.0, total)[:, None]
        output_at = (first_row + token) * (NUM_KV_HEADS * GROUP) + head
        tl.store(
            output + output_at[:, None] * HEAD_DIM + dims[None, :],
            mixed.to(output.dtype.element_ty),
            mask=in_query,
        )
    else:
        share_at = ((tile * NUM_KV_HEADS + kv_head) * NUM_SPLITS + split) * TILE_ROWS + at
        tl.store(
            partial + share_at[:, None] * PADDED_DIM + dims[None, :], mixed, mask=real[:, None]
        )
        tl.store(partial_max + share_at, top, mask=real)
        tl.store(partial_sum + share_at, total, mask=real)


@triton.jit
def combine_kernel(
    partial,
    partial_max,
    partial_sum,
    output,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
):
    """Put the splits of one decode's head together."""
    tile, head = tl.program_id(0), tl.program_id(1)
    splits = tl.arange(0, NUM_SPLITS)
    dims = tl.arange(0, PADDED_DIM)
    first = (tile * NUM_KV_HEADS + head // GROUP) * NUM_SPLITS
    share_at = (first + splits) * TILE_ROWS + head % GROUP
    tops = tl.load(partial_max + share_at)
    top = tl.max(tops, 0)
    safe_top = tl.where(top == float("-inf"), 0.0, top)
    fade = tl.exp2(tops - safe_top)
    total = tl.sum(tl.load(partial_sum + share_at) * fade, 0)
    mixed = tl.load(partial + share_at[:, None] * PADDED_DIM + dims[None, :])
    mixed = tl.sum(mixed * fade[:, None], 0) / tl.where(total == 0.0, 1.0, total)
    output_at = (tile * (NUM_KV_HEADS * GROUP) + head) * HEAD_DIM
    tl.store(output + output_at + dims, mixed.to(output.dtype.element_ty), mask=dims < HEAD_DIM)
