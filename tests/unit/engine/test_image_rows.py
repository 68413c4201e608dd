"""Where images lie in a step, and which positions their tokens have."""

from __future__ import annotations

from array import array

import torch
from hypothesis import given
from hypothesis import strategies as st

from shepherd_worker.engine.embedded.layout import Segment
from shepherd_worker.engine.embedded.model.image_rows import (
    image_rows,
    rotary_positions,
    segment_positions,
)
from shepherd_worker.image import ImageInput, PreparedImage


def placed(offset: int, rows: int, columns: int) -> ImageInput:
    grid = (1, rows, columns)
    return ImageInput(PreparedImage(digest=b"", num_tokens=rows * columns, grid=grid), offset)


def segment(start: int, length: int, *images: ImageInput) -> Segment:
    return Segment(array("I", [0] * length), start, (), 1, images)


def test_positions_are_those_of_the_picture() -> None:
    positions = segment_positions((placed(2, 2, 3),), 0, 10)

    assert positions.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6],
    ]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(1, 3)), max_size=3),
    st.data(),
)
def test_a_part_has_the_positions_that_it_has_in_the_whole(
    shapes: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    images, end = list[ImageInput](), 0
    for gap, rows, columns in shapes:
        images.append(placed(end + gap, rows, columns))
        end = images[-1].stop
    length = end + 5
    start = data.draw(st.integers(0, length - 1))
    stop = data.draw(st.integers(start + 1, length))

    whole = segment_positions(images, 0, length)

    assert torch.equal(segment_positions(images, start, stop), whole[:, start:stop])


def test_rows_of_an_image_are_found_wherever_a_chunk_cuts_it() -> None:
    image = placed(4, 2, 3)
    cut = [segment(0, 3, image), segment(3, 3, image), segment(6, 2, image), segment(8, 9, image)]
    stops = [3, 6, 8, 17]

    found = [(rows.row, rows.first, rows.count) for rows in image_rows(cut, stops)]

    assert found == [(4, 0, 2), (6, 2, 2), (8, 4, 2)]


def test_text_has_one_position_and_only_rows_within_images_have_three() -> None:
    image = placed(2, 2, 3)
    text, decode = segment(5, 1), segment(9, 1, image)
    plain = torch.tensor([5, 9])

    assert rotary_positions([text], [1], plain[:1]).tolist() == [5]
    assert rotary_positions([text, decode], [1, 2], plain).tolist() == [5, 6]
    within = rotary_positions([text, segment(6, 2, image)], [1, 3], torch.tensor([5, 6, 7]))
    assert within.tolist() == [[5, 2, 2], [5, 3, 3], [5, 3, 4]]
