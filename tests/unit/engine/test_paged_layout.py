"""A step as numbers: every token once, every decode padded away, every tile within its segment."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shepherd_worker.engine.embedded.layout import Segment
from shepherd_worker.engine.embedded.model.paged_layout import (
    PagedLayout,
    PageGeometry,
    bucket_for,
    bucket_sizes,
    lay_out_padded,
    lay_out_step,
)

GEOMETRY = PageGeometry(block_size=4, rows_per_block=24, tile_tokens=3)


def segment(start: int, num_tokens: int, first_block: int, num_logits: int = 1) -> Segment:
    """Token ids are positions plus 100; blocks follow one another."""
    num_blocks = -(-(start + num_tokens) // GEOMETRY.block_size)
    tokens = array("I", range(100 + start, 100 + start + num_tokens))
    return Segment(tokens, start, range(first_block, first_block + num_blocks), num_logits)


SEGMENTS = st.lists(
    st.builds(
        segment, st.integers(0, 30), st.integers(1, 20), st.integers(0, 50), st.integers(0, 1)
    ),
    min_size=1,
    max_size=6,
)


def parts(layout: PagedLayout) -> tuple[list[int], ...]:
    """Token ids, positions, rows, tiles, logit rows, tables."""
    tiles = 4 * (layout.num_decodes + layout.num_chunk_tiles)
    result, at = [], 0
    for size in (*[layout.num_tokens] * 3, tiles, layout.num_logits or 0):
        result.append(layout.numbers[at : at + size].tolist())
        at += size
    return (*result, layout.numbers[at:].tolist())


def tiles_of(numbers: list[int]) -> list[tuple[int, ...]]:
    return [tuple(numbers[i : i + 4]) for i in range(0, len(numbers), 4)]


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (8, (1, 2, 4, 8)), (48, (1, 2, 4, 8, 16, 32, 48))],
)
def test_buckets_are_powers_of_two_and_the_largest(largest: int, sizes: tuple[int, ...]) -> None:
    assert bucket_sizes(largest) == sizes


@given(st.integers(1, 300), st.integers(1, 300))
def test_a_batch_goes_into_the_smallest_bucket_with_room(count: int, largest: int) -> None:
    buckets = bucket_sizes(largest)
    found = bucket_for(count, buckets)

    assert found == min((size for size in buckets if size >= count), default=None)


def test_decodes_padded_to_a_bucket() -> None:
    layout = lay_out_padded([segment(5, 1, 7), segment(0, 1, 2)], GEOMETRY, bucket=4)
    tokens, positions, rows, tiles, logit_rows, tables = parts(layout)

    assert tokens == [105, 100, 0, 0]
    assert positions == [5, 0, 0, 0]
    assert rows == [8 * 24 + 1, 2 * 24, -1, -1]
    assert tiles_of(tiles) == [(0, 0, 1, 5), (2, 1, 1, 0), (0, 2, 1, -1), (0, 3, 1, -1)]
    assert logit_rows == []
    assert tables == [7, 8, 2]
    assert (layout.num_decodes, layout.num_chunk_tiles, layout.num_logits) == (4, 0, None)
    assert layout.stops == (1, 2)


def test_a_chunk_before_a_decode_comes_after_it_and_keeps_its_place_among_the_logits() -> None:
    layout = lay_out_step([segment(6, 5, 1, 2), segment(9, 1, 20)], GEOMETRY)
    tokens, positions, rows, tiles, logit_rows, tables = parts(layout)

    assert tokens == [109, 106, 107, 108, 109, 110]
    assert positions == [9, 6, 7, 8, 9, 10]
    assert rows == [22 * 24 + 1, 50, 51, 72, 73, 74]
    assert tiles_of(tiles) == [(0, 0, 1, 9), (3, 1, 3, 6), (3, 4, 2, 9)]
    assert logit_rows == [4, 5, 0]
    assert tables == [20, 21, 22, 1, 2, 3]
    assert (layout.num_decodes, layout.num_chunk_tiles, layout.num_logits) == (1, 2, 3)
    assert layout.stops == (6, 1)


@given(SEGMENTS)
def test_every_token_is_laid_out_once_and_its_tile_finds_its_block(
    segments: list[Segment],
) -> None:
    layout = lay_out_step(segments, GEOMETRY)
    tokens, positions, rows, tiles, logit_rows, tables = parts(layout)

    covered = []
    for table, first_row, count, first_position in tiles_of(tiles):
        assert 1 <= count <= GEOMETRY.tile_tokens
        for offset in range(count):
            row, position = first_row + offset, first_position + offset
            covered.append(row)
            block, place = divmod(position, GEOMETRY.block_size)
            assert positions[row] == position
            assert tokens[row] == position + 100
            assert rows[row] == tables[table + block] * GEOMETRY.rows_per_block + place
    assert sorted(covered) == list(range(layout.num_tokens))
    assert [tokens[row] for row in logit_rows] == [
        each.token_ids[-1] for each in segments if each.num_logits
    ]
    assert [tokens[stop - 1] for stop in layout.stops] == [each.token_ids[-1] for each in segments]
