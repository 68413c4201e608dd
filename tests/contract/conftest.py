"""Every archive there is, for the suites that hold each of them to the same promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shepherd_memory.archive.fake import FakeArchive, FakeArchives
from shepherd_memory.archive.files import SqliteArchives
from shepherd_memory.archive.protocol import Archives


@pytest.fixture(params=["sqlite", "fake"])
def open_archives(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], Archives]:
    """Opens the same stores each time, as a process does that starts again."""
    if request.param == "fake":
        disk: dict[str, FakeArchive] = {}
        return lambda: FakeArchives(disk)
    return lambda: SqliteArchives(tmp_path / "tenants")


@pytest.fixture
def archives(open_archives: Callable[[], Archives]) -> Iterator[Archives]:
    opened = open_archives()
    yield opened
    opened.close()
