"""Whatever a KV store does, requests are answered and an engine closes."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from engine_calls import EngineName, ask, ask_all, config, make_engine, request, started, until
from kv_stores import (
    BLOCK_BYTES,
    PROMPT,
    Gate,
    engine_with,
    failing,
    kv_store,
    saved_prompt,
    without_store,
)
from shepherd_worker.engine.connector.connector import NUM_READERS, STOP_TIMEOUT_S
from shepherd_worker.engine.connector.memory import MemoryStore
from shepherd_worker.errors import EngineDeadError, UnusableInputError
from shepherd_worker.request import Usage

TIMEOUT_S = 0.1


@pytest.fixture(params=["fake", "torch"])
def name(request: pytest.FixtureRequest) -> EngineName:
    chosen: EngineName = request.param
    return chosen


@pytest.mark.parametrize("operation", ["find", "load"])
async def test_a_store_that_is_late_is_not_waited_for(name: EngineName, operation: str) -> None:
    gate = Gate(operation)
    store = MemoryStore(shelf=await saved_prompt(name), before=gate)
    async with engine_with(name, store, kv_connector_timeout_s=TIMEOUT_S) as engine:
        answers = [await ask(engine, request([i, *PROMPT], 2)) for i in range(2)]
        first = await ask(engine, request(PROMPT))
        late = kv_store(engine).loads_late_total
        gate.open()

    assert first == await without_store(name)
    assert len(answers) == 2
    assert late == (3 if operation == "find" else 1)


async def test_a_store_that_hangs_for_good_costs_each_of_its_threads_one_request(
    name: EngineName,
) -> None:
    gate = Gate("find")
    engine = make_engine(
        name, config(kv_connector_timeout_s=TIMEOUT_S), store=MemoryStore(before=gate)
    )
    async with started(engine):
        calls = [request([i, *PROMPT], 2) for i in range(NUM_READERS)]
        await ask_all(engine, calls)
        after = await ask_all(engine, [request([40 + i, *PROMPT], 2) for i in range(8)])

        assert gate.num_waiting == NUM_READERS
        assert kv_store(engine).loads_late_total == NUM_READERS + 8
        assert len(after) == 8
        assert kv_store(engine).blocks_missed_total == 4 * (NUM_READERS + 8)
        assert kv_store(engine).failures_total == 0
        gate.open()


@pytest.mark.parametrize("operation", ["find", "load", "save"])
async def test_closing_does_not_wait_for_a_store_that_hangs(
    name: EngineName, operation: str
) -> None:
    gate = Gate(operation)
    engine = make_engine(
        name, config(), store=MemoryStore(shelf=await saved_prompt(name), before=gate)
    )
    await engine.start()
    call = asyncio.create_task(ask(engine, request(PROMPT, 200)))
    await until(lambda: gate.num_waiting == 1)
    async with asyncio.timeout(STOP_TIMEOUT_S + 3):
        await engine.close()
    outcome = (await asyncio.gather(call, return_exceptions=True))[0]
    gate.open()

    assert isinstance(outcome, EngineDeadError)


async def test_closing_a_stream_while_it_loads_leaves_nothing_behind(name: EngineName) -> None:
    gate = Gate("load")
    room = {"kv_connector_buffer": 4 * BLOCK_BYTES[name]}
    async with engine_with(
        name, MemoryStore(shelf=await saved_prompt(name), before=gate), **room
    ) as engine:
        loading = asyncio.create_task(ask(engine, request(PROMPT)))
        await until(lambda: gate.num_waiting == 1)
        waiting = asyncio.create_task(ask(engine, request(PROMPT)))
        await asyncio.sleep(0.01)
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        gate.open()
        answer = await waiting

    assert loading.cancelled()
    assert answer.usage == Usage(17, 16, 8)
    assert kv_store(engine).loads_late_total == 0


@pytest.mark.parametrize("operation", ["find", "load"])
async def test_a_store_that_cannot_be_read_is_computed_for_and_told_once(
    name: EngineName, operation: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore(
        shelf=await saved_prompt(name), before=failing(operation, PermissionError(13, "no access"))
    )
    with caplog.at_level(logging.WARNING):
        async with engine_with(name, store) as engine:
            answers = [await ask(engine, request(PROMPT)) for _ in range(2)]

    assert answers[0] == await without_store(name)
    assert answers[1].usage == Usage(17, 16, 8)
    assert kv_store(engine).failures_total == (2 if operation == "find" else 1)
    assert [r.message.partition(":")[0] for r in caplog.records] == ["the KV store failed (EACCES"]
    assert engine.stats().requests_failed_total == 0


async def test_a_full_disk_drops_saves_and_is_told_once(
    name: EngineName, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore(before=failing("save", OSError(28, "No space left on device")))
    with caplog.at_level(logging.WARNING):
        async with engine_with(name, store) as engine:
            answer = await ask(engine, request(PROMPT))

    assert answer == await without_store(name)
    assert kv_store(engine).saves_dropped_total == kv_store(engine).failures_total == 6
    assert kv_store(engine).saved_bytes_total == 0
    assert [r.message.partition(":")[0] for r in caplog.records] == ["the KV store failed (ENOSPC"]


async def test_saves_that_find_no_room_are_dropped_and_counted(name: EngineName) -> None:
    gate = Gate("save")
    room = {"kv_connector_buffer": 3 * BLOCK_BYTES[name]}
    async with engine_with(name, store := MemoryStore(before=gate), **room) as engine:
        answer = await ask(engine, request(PROMPT))
        dropped = kv_store(engine).saves_dropped_total
        gate.open()

    assert answer == await without_store(name)
    assert dropped == 3
    assert kv_store(engine).saved_bytes_total == 3 * BLOCK_BYTES[name]
    assert store.counters().blocks_evicted == 0


async def test_a_buffer_without_room_for_a_block_is_told_at_the_start(name: EngineName) -> None:
    engine = make_engine(name, config(kv_connector_buffer=1), store=MemoryStore())

    with pytest.raises(UnusableInputError, match="--kv-connector-buffer: 1 bytes have no room"):
        await engine.start()
    await engine.close()


async def test_a_store_without_room_for_a_block_is_told_at_the_start(
    name: EngineName, tmp_path: Path
) -> None:
    engine = make_engine(name, config(kv_connector=f"disk:{tmp_path}/kv", kv_connector_size=1))

    with pytest.raises(UnusableInputError, match="--kv-connector-size: 1 bytes have no room"):
        await engine.start()
    await engine.close()
