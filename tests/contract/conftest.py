"""Every archive there is, for the suites that hold each of them to the same promises."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shepherd_memory.archive.fake import FakeArchive, FakeArchives
from shepherd_memory.archive.files import SqliteArchives
from shepherd_memory.archive.foreign import load_archives
from shepherd_memory.archive.postgres import PostgresArchives
from shepherd_memory.archive.postgres_pool import PostgresPool
from shepherd_memory.archive.protocol import Archives

FOREIGN = os.environ.get("SHEPHERD_TEST_ARCHIVE", "")
"""MODULE:FACTORY of a store of yours, which is then held to all of this as well."""


@pytest.fixture(params=["sqlite", "postgres", "fake", *(["foreign"] if FOREIGN else [])])
def open_archives(
    tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[[], Archives]]:
    """Opens the same stores each time, as a process does that starts again."""
    if request.param == "fake":
        disk: dict[str, FakeArchive] = {}
        yield lambda: FakeArchives(disk)
    elif request.param == "sqlite":
        yield lambda: SqliteArchives(tmp_path / "tenants")
    elif request.param == "foreign":
        factory = load_archives(FOREIGN)
        yield lambda: factory(tmp_path)
    else:
        pool = PostgresPool(request.getfixturevalue("postgres").fresh())
        yield lambda: PostgresArchives(pool)
        pool.close()


@pytest.fixture
def archives(open_archives: Callable[[], Archives]) -> Iterator[Archives]:
    opened = open_archives()
    yield opened
    opened.close()
