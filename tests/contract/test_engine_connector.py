"""What every engine promises with a KV store: the same answers, sooner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine_calls import EngineName, ask, ask_all, config, make_engine, replay, request, until
from kv_stores import BLOCK_BYTES, PROMPT, engine_with, kv_store, saved, without_store
from shepherd_worker.engine.connector.disk import DiskStore
from shepherd_worker.engine.connector.memory import MemoryStore, Shelf
from shepherd_worker.engine.connector.protocol import KvStore
from shepherd_worker.request import Usage

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


async def test_only_what_no_tier_has_is_loaded(name: EngineName, make_store: MakeStore) -> None:
    async with engine_with(name, make_store()) as first:
        await ask(first, request(PROMPT))
    async with engine_with(name, make_store()) as second:
        await ask(second, request(range(10, 19), 1))
        after = await ask(second, request(PROMPT))
        again = await ask(second, request(PROMPT))

    assert after.usage == again.usage == Usage(17, 16, 8)
    assert after.token_ids == again.token_ids == (await without_store(name)).token_ids
    assert kv_store(second).blocks_hit_total == 2 + 2
    assert kv_store(second).blocks_missed_total == 0
    assert second.stats().prompt_tokens_cached_total == 8 + 16
    assert second.stats().prompt_tokens_loaded_total == 8 + 8


async def test_what_the_device_forgot_comes_back_from_the_store(
    name: EngineName, make_store: MakeStore
) -> None:
    prompts = [range(start, start + 17) for start in (10, 60, 90, 120)]
    async with engine_with(name, make_store(), num_kv_blocks=10) as engine:
        for prompt in prompts:
            await ask(engine, request(prompt, 4))
        await saved(engine, name, 4 * 5)
        again = [await ask(engine, request(prompt, 4)) for prompt in prompts]

    assert engine.stats().blocks_evicted_total > 0
    assert [answer.usage for answer in again] == [Usage(17, 16, 4)] * 4
    expected = [await without_store(name, prompt) for prompt in prompts]
    assert [a.token_ids for a in again] == [e.token_ids[:4] for e in expected]
    assert kv_store(engine).saved_bytes_total == 4 * 5 * BLOCK_BYTES[name]


async def test_what_comes_back_from_the_host_tier_is_not_saved_again(name: EngineName) -> None:
    saves: list[str] = []
    store = MemoryStore(before=saves.append)
    prompts = [range(start, start + 17) for start in (10, 60, 90)]
    limits = {"num_kv_blocks": 8, "host_cache_size": 64 * BLOCK_BYTES[name]}
    async with engine_with(name, store, **limits) as engine:
        for prompt in (*prompts, *prompts):
            await ask(engine, request(prompt, 4))

    assert engine.stats().blocks_onboarded_total > 0
    assert kv_store(engine).blocks_hit_total == 0
    assert saves.count("save") == 3 * 5


async def test_loaded_blocks_are_told_as_stored(name: EngineName, make_store: MakeStore) -> None:
    async with engine_with(name, make_store()) as first:
        await ask(first, request(PROMPT))
    second = make_engine(name, config(), store=make_store())
    info = await second.start()
    answer = await ask(second, request(PROMPT))
    replica = await replay(second, info)

    assert len(replica.resident) == 6
    assert replica.text(replica.finished[0]) == [*PROMPT, *answer.token_ids]
    assert replica.finished[0].cached_tokens == 16


async def test_tenants_find_nothing_of_each_other_in_a_store(
    name: EngineName, make_store: MakeStore
) -> None:
    async with engine_with(name, make_store()) as first:
        await ask(first, request(PROMPT, cache_salt="tenant-a"))
    async with engine_with(name, make_store()) as second:
        answers = [
            await ask(second, request(PROMPT, cache_salt=salt))
            for salt in ("", "tenant-b", "tenant-a")
        ]

    assert [a.usage and a.usage.cached_tokens for a in answers] == [0, 0, 16]


async def test_a_prefill_and_a_decode_engine_may_share_a_store(
    name: EngineName, make_store: MakeStore
) -> None:
    async with (
        engine_with(name, make_store()) as prefill,
        engine_with(name, make_store()) as decode,
    ):
        result = await prefill.prefill(request(PROMPT))
        answer = await ask(decode, request(PROMPT), result.handoff)
        await until(lambda: prefill.stats().leases == 0)

    assert answer == await without_store(name)
    assert decode.stats().prompt_tokens_transferred_total == 16
    async with engine_with(name, make_store(), transfer_lease_s=0.1) as restarted:
        result = await restarted.prefill(request(PROMPT))
        assert result.chunk.usage == Usage(17, 16, 1)


async def test_a_prompt_whose_prefill_worker_is_gone_comes_from_the_store(
    name: EngineName, make_store: MakeStore
) -> None:
    async with engine_with(name, make_store()) as decode:
        async with engine_with(name, make_store()) as prefill:
            result = await prefill.prefill(request(PROMPT))
            await saved(prefill, name, 4)
            await prefill.close()
        answer = await ask(decode, request(PROMPT), result.handoff)

    assert answer.token_ids == (await without_store(name)).token_ids
    assert answer.usage == Usage(17, 16, 8)
    assert decode.stats().transfer_failures_total == 1


async def test_many_requests_at_once_share_a_small_buffer(
    name: EngineName, make_store: MakeStore
) -> None:
    calls = [request([i, *PROMPT], 3, request_id=str(i)) for i in range(20)]
    async with engine_with(name, make_store()) as first:
        expected = await ask_all(first, calls)
    room = {"kv_connector_buffer": 5 * BLOCK_BYTES[name], "num_kv_blocks": 24}
    async with engine_with(name, make_store(), **room) as second:
        answers = await ask_all(second, calls)

    assert [a.token_ids for a in answers] == [e.token_ids for e in expected]
    assert [a.usage for a in answers] == [Usage(18, 16, 3)] * 20


async def test_a_prompt_larger_than_the_buffer_is_loaded_as_far_as_it_fits(
    name: EngineName, make_store: MakeStore
) -> None:
    async with engine_with(name, make_store()) as first:
        expected = await ask(first, request(PROMPT))
    async with engine_with(name, make_store(), kv_connector_buffer=3 * BLOCK_BYTES[name]) as second:
        answer = await ask(second, request(PROMPT))

    assert answer.token_ids == expected.token_ids
    assert answer.usage == Usage(17, 12, 8)
    assert (kv_store(second).blocks_hit_total, kv_store(second).blocks_missed_total) == (3, 1)
