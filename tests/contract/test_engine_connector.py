"""What every engine promises with a KV store: the same answers, sooner, whatever the store does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from engine_calls import (
    Answer,
    EngineName,
    ask,
    config,
    make_engine,
    request,
    started,
)
from shepherd_worker.engine.connector.disk import DiskStore
from shepherd_worker.engine.connector.memory import MemoryStore, Shelf
from shepherd_worker.engine.connector.protocol import KvStore
from shepherd_worker.engine.embedded.engine import EmbeddedEngine
from shepherd_worker.engine.protocol import KvStoreStats
from shepherd_worker.request import Usage

PROMPT = range(10, 27)
"""17 tokens: four full blocks and one more."""
TIMEOUT_S = 0.1

MakeStore = Callable[[], KvStore]


@pytest.fixture(params=["fake", "torch"])
def name(request: pytest.FixtureRequest) -> EngineName:
    chosen: EngineName = request.param
    return chosen


@pytest.fixture(params=["disk", "memory"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    """Stores that find each other's blocks."""
    if request.param == "disk":
        return lambda: DiskStore(str(tmp_path / "kv"), 1 << 30)
    shelf = Shelf()
    return lambda: MemoryStore(shelf=shelf)


@asynccontextmanager
async def engine_with(
    name: EngineName, store: KvStore, **limits: Any
) -> AsyncIterator[EmbeddedEngine]:
    """An engine whose blocks are all saved when the block ends."""
    engine = make_engine(name, config(**limits), store=store)
    async with started(engine):
        yield engine
        await engine.drain()


def kv_store(engine: EmbeddedEngine) -> KvStoreStats:
    stats = engine.stats().kv_store
    assert stats is not None
    return stats


async def without_store(name: EngineName, prompt: range = PROMPT) -> Answer:
    async with started(engine := make_engine(name)):
        return await ask(engine, request(prompt))


async def test_a_restarted_engine_answers_alike_from_what_the_first_one_saved(
    name: EngineName, make_store: MakeStore
) -> None:
    async with engine_with(name, make_store()) as first:
        before = await ask(first, request(PROMPT))
    async with engine_with(name, make_store()) as second:
        after = await ask(second, request(PROMPT))

    expected = await without_store(name)
    assert before == expected
    assert after.token_ids == expected.token_ids
    assert after.usage == Usage(17, 16, 8)
    assert (kv_store(first).blocks_hit_total, kv_store(first).blocks_missed_total) == (0, 4)
    assert (kv_store(second).blocks_hit_total, kv_store(second).blocks_missed_total) == (4, 0)
    assert kv_store(first).saved_bytes_total == 6 * kv_store(second).loaded_bytes_total // 4
    assert kv_store(second).saved_bytes_total == 0
    stats = second.stats()
    assert stats.prompt_tokens_loaded_total == 16
    assert (stats.prompt_tokens_cached_total, stats.prompt_tokens_transferred_total) == (0, 0)
