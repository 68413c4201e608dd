"""How much room the stores take, as files and as tables."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from archive_samples import a_turn
from postgres_server import PostgresServer
from shepherd_memory.archive.postgres import PostgresArchives
from shepherd_memory.archive.postgres_pool import PostgresPool
from shepherd_memory.archive.postgres_size import tables_of
from shepherd_memory.errors import StoreUnavailableError
from shepherd_memory.metrics import Metrics
from shepherd_memory.store_size import INTERVAL_S, files_in, keep_measuring


def test_files_are_counted_with_their_logs_and_nothing_else_is(tmp_path: Path) -> None:
    (tmp_path / "tenants").mkdir()
    for name, size in (
        ("tenants/a.db", 100),
        ("tenants/a.db-wal", 20),
        ("tenants/b.db", 3),
        ("index.db", 1000),
        ("index.db-wal", 500),
        ("audit.jsonl", 7777),
    ):
        (tmp_path / name).write_bytes(bytes(size))

    assert files_in(tmp_path) == {"archives": 123, "index": 1500}


def test_tables_are_counted_with_their_indexes_and_grow_with_what_they_hold(
    postgres: PostgresServer,
) -> None:
    pool = PostgresPool(postgres.fresh())
    try:
        before = tables_of(pool)
        with PostgresArchives(pool).of("t").writing() as writer:
            for number in range(200):
                writer.insert(a_turn(number))
        after = tables_of(pool)
    finally:
        pool.close()

    assert before.keys() == after.keys() == {"archives", "index"}
    assert after["archives"] > before["archives"] > 0
    assert after["index"] == before["index"] > 0


class Measuring:
    """Sizes that change and fail; the fourth sleep never ends."""

    def __init__(self) -> None:
        self.answers: list[Mapping[str, int] | Exception] = [
            {"archives": 10, "index": 1},
            StoreUnavailableError("postgresql here/db:s", "it is away"),
            OSError("it is away"),
            {"archives": 30, "index": 2},
        ]
        self.metrics = Metrics()
        self.told: list[tuple[float | None, float | None]] = []
        self.done = asyncio.Event()

    def sizes(self) -> Mapping[str, int]:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def sleep(self, pause_s: float) -> None:
        assert pause_s == INTERVAL_S
        self.told.append((self._value("archives"), self._value("index")))
        if not self.answers:
            self.done.set()
            await asyncio.Event().wait()

    def _value(self, store: str) -> float | None:
        name = "shepherd_memory_stored_bytes"
        return self.metrics.registry.get_sample_value(name, {"store": store})


async def test_a_store_that_cannot_be_asked_keeps_the_size_that_it_had() -> None:
    measuring = Measuring()
    task = asyncio.create_task(
        keep_measuring(measuring.sizes, measuring.metrics, sleep=measuring.sleep)
    )
    await asyncio.wait_for(measuring.done.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert measuring.told == [(10, 1), (10, 1), (10, 1), (30, 2)]
