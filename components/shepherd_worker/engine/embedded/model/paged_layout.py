"""One step's segments as one row of 32-bit numbers, which a single copy takes to the device.

    token_ids [T] | positions [T] | rows [T] | tiles [D + C, 4] | logit_rows [R] | tables

`rows` is where a token's KV goes, -1 for padding.  `tables` are the segments'
block tables, one behind the other.  A *tile* is what one program of the
attention kernel computes: up to `tile_tokens` consecutive tokens of one segment,

    (start of the segment's table, first row of the batch, tokens, first position)

The D decodes come first, a tile each, then the C tiles of the chunks.  A layout
that is padded to a bucket has nothing but decodes; its padding has position -1,
so that it sees no token and no token is written.  Pure arithmetic, no tensors.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from shepherd_worker.engine.embedded.layout import Segment

TILE_NUMBERS = 4
NUMBERS_PER_DECODE = 3 + TILE_NUMBERS
"""Of a decode in a padded layout, its block table apart."""


@dataclass(frozen=True, slots=True)
class PageGeometry:
    """How the numbers of a layout are counted."""

    block_size: int
    rows_per_block: int
    """Tokens' keys and values of all layers that one block holds."""
    tile_tokens: int


@dataclass(frozen=True, slots=True)
class PagedLayout:
    """See the module's docstring."""

    numbers: array[int]
    """Typecode "i"."""
    num_tokens: int
    """T, padding included."""
    num_decodes: int
    """D, padding included."""
    num_chunk_tiles: int
    num_logits: int | None
    """R; None in a padded layout, where every row has its logits computed."""
    stops: tuple[int, ...]
    """The row after the last of each segment, as they were given."""


def bucket_sizes(largest: int) -> tuple[int, ...]:
    """Batch sizes that decodes are padded to: powers of two, and `largest` itself."""
    return (*(1 << i for i in range(max(0, largest - 1).bit_length())), largest)


def bucket_for(count: int, buckets: Sequence[int]) -> int | None:
    """The smallest of the ascending `buckets` with room for `count`; None beyond the last."""
    at = bisect_left(buckets, count)
    return buckets[at] if at < len(buckets) else None


def lay_out_padded(segments: Sequence[Segment], geometry: PageGeometry, bucket: int) -> PagedLayout:
    """A step of decodes alone, padded to `bucket` of them."""
    padding = bucket - len(segments)
    token_ids, positions, rows, tiles, tables = (array("i") for _ in range(5))
    for row, segment in enumerate(segments):
        position = segment.start
        token_ids.append(segment.token_ids[0])
        positions.append(position)
        rows.append(_row(segment, position, geometry))
        tiles.extend((len(tables), row, 1, position))
        tables.extend(_table(segment, geometry))
    token_ids.extend([0] * padding)
    positions.extend([0] * padding)
    rows.extend([-1] * padding)
    for row in range(len(segments), bucket):
        tiles.extend((0, row, 1, -1))
    numbers = token_ids + positions + rows + tiles + tables
    return PagedLayout(numbers, bucket, bucket, 0, None, tuple(range(1, len(segments) + 1)))


def lay_out_step(segments: Sequence[Segment], geometry: PageGeometry) -> PagedLayout:
    """A step of any work; logits are asked for in the order of the segments."""
    order = sorted(range(len(segments)), key=lambda i: len(segments[i].token_ids) > 1)
    num_decodes = sum(1 for segment in segments if len(segment.token_ids) == 1)
    token_ids, positions, rows, tiles, tables = (array("i") for _ in range(5))
    stops = [0] * len(segments)
    for i in order:
        segment = segments[i]
        tiles.extend(_tiles(segment, len(tables), len(token_ids), geometry.tile_tokens))
        tables.extend(_table(segment, geometry))
        token_ids.extend(segment.token_ids.tolist())
        stops[i] = len(token_ids)
        for position in range(segment.start, segment.num_seen):
            positions.append(position)
            rows.append(_row(segment, position, geometry))
    logit_rows = array("i")
    for stop, segment in zip(stops, segments, strict=True):
        logit_rows.extend(range(stop - segment.num_logits, stop))
    return PagedLayout(
        token_ids + positions + rows + tiles + logit_rows + tables,
        num_tokens=len(token_ids),
        num_decodes=num_decodes,
        num_chunk_tiles=len(tiles) // TILE_NUMBERS - num_decodes,
        num_logits=len(logit_rows),
        stops=tuple(stops),
    )


def _row(segment: Segment, position: int, geometry: PageGeometry) -> int:
    """Where a token's key of the first layer lies."""
    block, offset = divmod(position, geometry.block_size)
    return segment.block_ids[block] * geometry.rows_per_block + offset


def _table(segment: Segment, geometry: PageGeometry) -> Sequence[int]:
    return segment.block_ids[: -(-segment.num_seen // geometry.block_size)]


def _tiles(segment: Segment, table: int, first_row: int, tile_tokens: int) -> list[int]:
    numbers: list[int] = []
    for offset in range(0, len(segment.token_ids), tile_tokens):
        count = min(tile_tokens, len(segment.token_ids) - offset)
        numbers += (table, first_row + offset, count, segment.start + offset)
    return numbers
