"""A recording gives back what was recorded, or says what it cannot."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from event_strategies import frames
from shepherd_events.events import Frame, StreamId
from shepherd_events.recording import RecordedItem, Recording, RecordingError, RecordingWriter
from shepherd_events.subscription_types import Item, Reset, ResetReason
from stream_readers import INFO, STREAM, stored, turn

RESET = Reset(7, 4, (stored(1, 2), stored(3, parent=2)), ResetReason.LOST)
SECOND = 1_000_000_000


def recorded(*items: Item, step_ns: int = SECOND) -> list[RecordedItem]:
    return [
        RecordedItem(
            SECOND * 100 + number * step_ns,
            item.stream if isinstance(item, Frame) else STREAM,
            item,
        )
        for number, item in enumerate(items)
    ]


def bytes_of(items: list[RecordedItem], *, closed: bool = True) -> bytes:
    file = io.BytesIO()
    writer = RecordingWriter(file, created_unix_ns=1)
    for item in items:
        writer.add(item)
    writer.close() if closed else writer.flush()
    assert writer.size_bytes == len(file.getvalue())
    return file.getvalue()


def read(path: Path, data: bytes) -> tuple[list[RecordedItem], int]:
    """The items, and how many bytes could not be read."""
    path.write_bytes(data)
    with Recording(path) as recording:
        return list(recording.items()), recording.unread_bytes


def story() -> list[RecordedItem]:
    said = [Frame(STREAM, 7, 1, 5, INFO), RESET, Frame(StreamId("other", 3), 9, 2, 6, turn(1))]
    return recorded(*said, Frame(STREAM, 7, 5, 9, turn(2)))


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(items=st.lists(frames(), max_size=5), closed=st.booleans())
def test_any_frames_come_back_as_they_were(
    tmp_path: Path, items: list[Frame], closed: bool
) -> None:
    told = recorded(*items)

    assert read(tmp_path / "r.kv", bytes_of(told, closed=closed)) == (told, 0)


def test_a_closed_recording_knows_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "r.kv"
    path.write_bytes(bytes_of(story()))
    with Recording(path) as recording:
        assert list(recording.items()) == story()
        index = recording.index

    assert index is not None
    assert (index.items, index.streams) == (4, ("worker-1/0", "other/3"))
    assert index.duration_s == 3.0


def test_wherever_an_unclosed_file_is_cut_its_whole_items_are_read(tmp_path: Path) -> None:
    data, told = bytes_of(story(), closed=False), story()
    ends = [len(bytes_of(told[:count], closed=False)) for count in range(len(told) + 1)]
    for cut in range(8, len(data) + 1):
        whole = sum(end <= cut for end in ends[1:])
        begin = ends[whole] if cut >= ends[0] else 8

        assert read(tmp_path / "r.kv", data[:cut]) == (told[:whole], cut - begin)


def test_a_file_that_lost_its_footer_is_read_all_the_same(tmp_path: Path) -> None:
    data = bytes_of(story())

    items, unread = read(tmp_path / "r.kv", data[:-1])
    assert (items, unread) == (story(), 0)


def test_a_torn_page_of_zeros_ends_an_unclosed_file(tmp_path: Path) -> None:
    items, unread = read(tmp_path / "r.kv", bytes_of(story(), closed=False) + bytes(4096))

    assert (items, unread) == (story(), 4096)


def test_every_flipped_bit_of_a_closed_recording_is_found(tmp_path: Path) -> None:
    data = bytes_of(story())
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 0x10
        try:
            items, unread = read(tmp_path / "r.kv", bytes(flipped))
        except RecordingError:
            continue
        else:  # a broken footer only makes it a file that was not closed
            assert place >= len(data) - 20, place
            assert (items, unread) == (story(), 0)


@pytest.mark.parametrize("data", [b"", b"SHKVREC", b"#!/bin/sh\n" * 9])
def test_another_file_is_no_recording(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(RecordingError, match="this is no recording"):
        read(tmp_path / "r.kv", data)


@pytest.mark.parametrize("closed", [True, False])
def test_the_beginning_can_be_left_out(tmp_path: Path, closed: bool) -> None:
    """The index leads into the middle; a file without one is read from its beginning."""
    frames = [Frame(STREAM, 7, n, 5, turn(n, tail_tokens=2000)) for n in range(1, 500)]
    told = recorded(*frames, step_ns=SECOND // 100)
    path = tmp_path / "r.kv"
    path.write_bytes(bytes_of(told, closed=closed))
    with Recording(path) as recording:
        assert list(recording.items(skip_s=4.0)) == told[400:]
        assert list(recording.items(skip_s=100.0)) == []
        if recording.index is not None:
            assert len(recording.index.marks) >= 3
            assert all(a < b for a, b in pairwise(recording.index.marks))


def test_a_full_disk_leaves_a_file_that_can_be_read(tmp_path: Path) -> None:
    class Full(io.BytesIO):
        room = 400

        def write(self, data: object) -> int:  # type: ignore[override] # of a bytearray only
            assert isinstance(data, bytearray)
            if self.tell() + len(data) > self.room:
                super().write(data[: self.room - self.tell()])
                raise OSError("no space left on device")
            return super().write(data)

    file = Full()
    writer = RecordingWriter(file, created_unix_ns=1)
    with pytest.raises(OSError, match="no space"):
        for item in story() * 10:
            writer.add(item)
            writer.flush()
    items, unread = read(tmp_path / "r.kv", file.getvalue())

    assert items == story()[: len(items)]
    assert items
    assert unread > 0
