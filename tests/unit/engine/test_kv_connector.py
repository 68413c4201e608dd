"""How much memory loaded blocks take, and who does without."""

from __future__ import annotations

import asyncio

from engine_calls import until
from kv_stores import Gate
from shepherd_events.events import BlockHash
from shepherd_worker.engine.connector.connector import KvConnector, LoadedRun
from shepherd_worker.engine.connector.memory import MemoryStore, Shelf
from shepherd_worker.engine.protocol import KvStoreStats

CHAIN = [BlockHash(i) for i in range(1, 5)]
RECORDS = [bytes([i]) * 8 for i in range(1, 5)]
WHOLE = LoadedRun(0, [*RECORDS])


def full_shelf() -> Shelf:
    shelf = Shelf()
    store = MemoryStore(shelf=shelf)
    for block_hash, record in zip(CHAIN, RECORDS, strict=True):
        store.save(block_hash, record)
    return shelf


def opened(store: MemoryStore, *, num_blocks: int, max_waiting: int = 9) -> KvConnector:
    connector = KvConnector(
        store, buffer_bytes=8 * num_blocks, load_timeout_s=5, max_waiting=max_waiting
    )
    connector.open(b"", 8)
    return connector


def nothing_cached() -> int:
    return 0


async def test_a_load_waits_until_what_others_loaded_is_released() -> None:
    connector = opened(MemoryStore(shelf=full_shelf()), num_blocks=6)
    assert await connector.load("a", CHAIN, nothing_cached) == WHOLE
    second = asyncio.create_task(connector.load("b", CHAIN, nothing_cached))
    await until(lambda: connector._budget.num_waiting == 1)
    assert not second.done()

    connector.release("a")
    connector.release("a")
    assert await second == WHOLE
    await connector.close()


async def test_more_than_may_wait_do_without() -> None:
    connector = opened(MemoryStore(shelf=full_shelf()), num_blocks=4, max_waiting=1)
    assert await connector.load("a", CHAIN, nothing_cached) == WHOLE
    second = asyncio.create_task(connector.load("b", CHAIN, nothing_cached))
    await until(lambda: connector._budget.num_waiting == 1)
    third = await connector.load("c", CHAIN, nothing_cached)
    assert (second.done(), third) == (False, None)

    connector.release("a")
    assert await second == WHOLE
    assert connector.stats() == KvStoreStats(
        blocks_hit_total=8, blocks_missed_total=4, loaded_bytes_total=64
    )
    await connector.close()


async def test_what_a_load_does_not_get_is_there_for_others() -> None:
    shelf = full_shelf()
    store = MemoryStore(shelf=shelf, before=lambda op: op == "load" and shelf.records.clear())
    connector = opened(store, num_blocks=4)
    assert await connector.load("a", CHAIN, nothing_cached) is None
    MemoryStore(shelf=shelf).save(CHAIN[0], RECORDS[0])

    async with asyncio.timeout(5):
        assert await connector.load("b", CHAIN, nothing_cached) is None
    assert connector.stats().blocks_missed_total == 8
    await connector.close()


async def test_memory_of_a_load_that_was_given_up_comes_back_when_the_call_is_over() -> None:
    gate = Gate("load")
    connector = opened(MemoryStore(shelf=full_shelf(), before=gate), num_blocks=4)
    given_up = asyncio.create_task(connector.load("a", CHAIN, nothing_cached))
    await until(lambda: gate.num_waiting == 1)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    second = asyncio.create_task(connector.load("b", CHAIN, nothing_cached))
    await until(lambda: connector._budget.num_waiting == 1)
    assert not second.done()

    gate.open()
    assert await second == WHOLE
    await connector.close()


async def test_closing_ends_who_waits_for_memory() -> None:
    connector = opened(MemoryStore(shelf=full_shelf()), num_blocks=4)
    await connector.load("a", CHAIN, nothing_cached)
    second = asyncio.create_task(connector.load("b", CHAIN, nothing_cached))
    await until(lambda: connector._budget.num_waiting == 1)
    await connector.close()

    assert await second is None
