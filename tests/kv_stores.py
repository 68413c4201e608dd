"""Engines with a KV store, and stores that do what a test wants of them."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from engine_calls import Answer, EngineName, ask, config, make_engine, request, started, until
from shepherd_worker.engine.connector.memory import MemoryStore, Shelf
from shepherd_worker.engine.connector.protocol import KvStore
from shepherd_worker.engine.embedded.engine import EmbeddedEngine
from shepherd_worker.engine.protocol import KvStoreStats

PROMPT = range(10, 27)
"""17 tokens: four full blocks and one more; with eight generated ones, two blocks more."""
BLOCK_BYTES: dict[EngineName, int] = {"fake": 4 * 4, "torch": 4 * 3 * 2 * 2 * 8 * 4}
"""Of four tokens: their ids, or float32 keys and values of three layers and two heads of 8."""


@asynccontextmanager
async def engine_with(
    name: EngineName, store: KvStore, **limits: Any
) -> AsyncIterator[EmbeddedEngine]:
    """An engine that is drained when the block ends, so that all its blocks are saved."""
    engine = make_engine(name, config(**limits), store=store)
    async with started(engine):
        yield engine
        await engine.drain()


async def without_store(name: EngineName, prompt: Sequence[int] = PROMPT) -> Answer:
    """What an engine answers that computes everything."""
    async with started(engine := make_engine(name)):
        return await ask(engine, request(prompt))


async def saved_prompt(name: EngineName) -> Shelf:
    """What an engine leaves that has answered the prompt."""
    shelf = Shelf()
    async with engine_with(name, MemoryStore(shelf=shelf)) as engine:
        await ask(engine, request(PROMPT))
    return shelf


def kv_store(engine: EmbeddedEngine) -> KvStoreStats:
    """What came of the engine's store."""
    stats = engine.stats().kv_store
    assert stats is not None
    return stats


async def saved(engine: EmbeddedEngine, name: EngineName, num_blocks: int) -> None:
    """Wait until that many blocks have reached the store."""
    await until(lambda: kv_store(engine).saved_bytes_total == num_blocks * BLOCK_BYTES[name])


class Gate:
    """Keeps one kind of a store's calls until it is opened."""

    def __init__(self, closed_to: str) -> None:
        self.num_waiting = 0
        self._closed_to = closed_to
        self._open = threading.Event()

    def __call__(self, operation: str) -> None:
        if operation == self._closed_to:
            self.num_waiting += 1
            self._open.wait()

    def open(self) -> None:
        self._open.set()


def failing(operation: str, error: Exception) -> Callable[[str], None]:
    """Let one kind of a store's calls raise."""

    def before(called: str) -> None:
        if called == operation:
            raise error

    return before
