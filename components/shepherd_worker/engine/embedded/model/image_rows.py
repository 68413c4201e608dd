"""Where images lie in a step: their rows in the packed batch, and their rotary positions.

Models with multimodal rotary positions give a token three of them: frame, row
and column.  Text counts on in all three; an image of R rows and C columns takes
R * C tokens but only max(R, C) positions:

    tokens     text text  image (2 x 3)                       text text
    frame      0    1     2     2     2     2     2     2      5    6
    row        0    1     2     2     2     3     3     3      5    6
    column     0    1     2     3     4     2     3     4      5    6

Source: Qwen2-VL, arXiv 2409.12191, section 2.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shepherd_worker.engine.embedded.layout import Segment
from shepherd_worker.image import ImageInput, PreparedImage


@dataclass(frozen=True, slots=True)
class ImageRows:
    """Rows [row, row + count) of a packed batch are an image's tokens [first, first + count)."""

    image: PreparedImage
    row: int
    first: int
    count: int


def image_rows(segments: Sequence[Segment], stops: Sequence[int]) -> Iterator[ImageRows]:
    """The images of a step; `stops` has the row after each segment's last."""
    for segment, row_stop in zip(segments, stops, strict=True):
        shift = row_stop - segment.num_seen
        for placed in segment.images:
            start = max(segment.start, placed.offset)
            stop = min(segment.num_seen, placed.stop)
            if start < stop:
                first = start - placed.offset
                yield ImageRows(placed.image, start + shift, first, stop - start)


def rotary_positions(
    segments: Sequence[Segment], stops: Sequence[int], positions: Tensor
) -> Tensor:
    """Positions [T] of a packed batch, corrected for images; [3, T] where a row lies within one."""
    if not any(placed.image.grid for segment in segments for placed in segment.images):
        return positions
    corrected = positions.expand(3, -1).clone()
    for segment, row_stop in zip(segments, stops, strict=True):
        if segment.images:
            rows = slice(row_stop - len(segment.token_ids), row_stop)
            own = segment_positions(segment.images, segment.start, segment.num_seen)
            corrected[:, rows] = own.to(positions.device)
    within = any(True for _ in image_rows(segments, stops))
    return corrected if within else corrected[0]


def segment_positions(images: Sequence[ImageInput], start: int, stop: int) -> Tensor:
    """Frame, row and column, [3, stop - start], of the tokens [start, stop) of one sequence."""
    positions = torch.arange(start, stop).expand(3, -1).clone()
    for placed in images:
        assert placed.image.grid is not None
        if placed.offset >= stop:
            break
        _, rows, columns = placed.image.grid
        index = torch.arange(start, stop)
        base = positions[0] - (index - placed.offset)
        after = index >= placed.stop
        positions[:, after] += max(rows, columns) - placed.image.num_tokens
        inside = (index >= placed.offset) & ~after
        place = index[inside] - placed.offset
        frame, row, column = (
            place // (rows * columns),
            place // columns % rows,
            place % columns,
        )
        positions[:, inside] = base[inside] + torch.stack((frame, row, column))
    return positions
