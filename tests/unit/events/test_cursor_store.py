"""Positions on disk: what was saved is loaded, and nothing else is taken for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shepherd_events.cursor_store import CursorFileError, FileCursorStore
from shepherd_events.events import StreamId
from shepherd_events.stream_cursor import Position

NUMBERS = st.integers(0, 2**64 - 1)
POSITIONS = st.dictionaries(
    st.builds(StreamId, st.text(min_size=1), st.integers(0, 2**32 - 1)),
    st.builds(Position, NUMBERS, NUMBERS),
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(positions=POSITIONS)
def test_what_was_saved_is_loaded(tmp_path: Path, positions: dict[StreamId, Position]) -> None:
    FileCursorStore(tmp_path / "cursor").save(positions)

    assert FileCursorStore(tmp_path / "cursor").load() == positions


def test_there_is_nothing_at_first(tmp_path: Path) -> None:
    assert FileCursorStore(tmp_path / "cursor").load() == {}


def test_a_place_where_nothing_can_be_saved_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        FileCursorStore(tmp_path / "nowhere" / "cursor").load()


def test_a_save_that_fails_leaves_the_last_one(tmp_path: Path) -> None:
    store = FileCursorStore(tmp_path / "cursor")
    kept = {StreamId("w"): Position(1, 2)}
    store.save(kept)
    (tmp_path / f".cursor.{os.getpid()}").mkdir()  # where the draft would be written
    with pytest.raises(OSError, match="cursor"):
        store.save({StreamId("w"): Position(1, 3)})

    assert store.load() == kept


@pytest.mark.parametrize(
    "text", ["", "[]", "null", '{"version": 2, "positions": []}', '{"version": 1}', "\0"]
)
def test_another_file_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cursor"
    path.write_text(text)

    with pytest.raises(CursorFileError, match=r"cursor holds no positions: .*; remove it"):
        FileCursorStore(path).load()
