"""Two services in one data directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from shepherd_memory.data_lock import locked
from shepherd_memory.errors import DataDirectoryInUseError


def test_a_data_directory_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    directory = tmp_path / "data"

    with (
        locked(directory),
        pytest.raises(DataDirectoryInUseError, match=r"--data-dir .* is in use"),
        locked(directory),
    ):
        pass

    with locked(directory):
        assert directory.stat().st_mode & 0o777 == 0o700
