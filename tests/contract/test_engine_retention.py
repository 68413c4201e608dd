"""What every engine promises about its tiers, priorities and policies."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from engine_calls import (
    EMBEDDED,
    EVERY,
    EngineName,
    ask,
    ask_all,
    chosen,
    config,
    make_engine,
    make_runner,
    replay,
    request,
    started,
)
from shepherd_events.events import StreamId, Tier
from shepherd_events.resident_set import ResidentSet
from shepherd_memory.block_index import BlockIndex
from shepherd_worker.engine import create_engine
from shepherd_worker.engine.protocol import Engine, EngineConfig, SequenceFinished
from shepherd_worker.errors import EngineFailedError, InvalidRequestError, UnusableInputError
from shepherd_worker.request import Retention, RetentionRange

A, B = [*range(10, 50)], [*range(60, 100)]
"""40 tokens, ten blocks, each; with eight more tokens they fill a cache of twelve blocks."""


@pytest.fixture(params=EVERY)
def name(request: pytest.FixtureRequest) -> EngineName:
    return chosen(request.param)


def with_host(name: EngineName, num_host_blocks: int, **limits: Any) -> EngineConfig:
    """A configuration whose host tier has that many blocks."""
    size = make_runner(name, config(num_kv_blocks=2)).load().block_bytes
    return config(**{"num_kv_blocks": 12, "host_cache_size": num_host_blocks * size, **limits})


async def cached(engine: Engine, prompt: list[int], **fields: Any) -> int:
    answer = await ask(engine, request(prompt, **fields))
    assert answer.usage is not None
    return answer.usage.cached_tokens


@pytest.mark.parametrize("name", EMBEDDED)  # TensorRT-LLM tells neither host hits nor preemptions
async def test_alternating_prompts_find_each_other_again_only_with_a_host_tier(
    name: EngineName,
) -> None:
    for num_host_blocks, expected in ((0, [0, 0, 0, 0]), (24, [0, 0, 36, 36])):
        engine = create_engine(name, with_host(name, num_host_blocks))
        async with started(engine) as info:
            assert [await cached(engine, prompt) for prompt in (A, B, A, B)] == expected
            stats = engine.stats()

        tiers = {Tier.DEVICE: 12} | ({Tier.HOST: 24} if num_host_blocks else {})
        assert info.num_blocks == tiers
        assert stats.prompt_tokens_cached_on_host_total == sum(expected)
        assert stats.blocks_onboarded_total == sum(expected) // 4
        assert (stats.blocks_offloaded_total > 0) == (stats.blocks_evicted_total == 0)
        assert stats.host_blocks_cached + stats.host_blocks_empty == num_host_blocks


async def test_answers_are_the_same_from_every_tier(name: EngineName) -> None:
    roomy, tiered = make_engine(name), make_engine(name, with_host(name, 24))
    async with started(roomy), started(tiered):
        for prompt in (A, B, A, [*A[:37], 3], B, A):
            assert await ask_tokens(tiered, prompt) == await ask_tokens(roomy, prompt)
        assert tiered.stats().blocks_onboarded_total > 0


async def ask_tokens(engine: Engine, prompt: list[int]) -> list[int]:
    return (await ask(engine, request(prompt))).token_ids


async def busy(name: EngineName, config_of: Callable[[EngineName], EngineConfig]) -> Engine:
    """An engine that was asked too much for both its tiers, some of it with retention."""
    engine = create_engine(name, config_of(name))
    info = await engine.start()
    random = Random(3)
    keep = Retention(ranges=(RetentionRange(start=0, stop=8, priority=90),))
    calls = []
    for i in range(24):
        prompt = [1, 2, 3, 4, 5, 6, 7, 8] * (i % 2) + random.choices(range(9), k=9 + i)
        calls.append(request(prompt, 8, request_id=str(i), retention=keep if i % 4 == 1 else None))
    await ask_all(engine, calls)
    await ask_all(engine, calls[:6])
    assert info.num_blocks[Tier.HOST] == 9
    return engine


@pytest.mark.parametrize("name", EMBEDDED)  # TensorRT-LLM tells neither host hits nor preemptions
async def test_the_events_say_what_lies_on_each_tier(name: EngineName) -> None:
    engine = await busy(name, lambda name: with_host(name, 9, max_batch_size=3, num_kv_blocks=20))
    stats = engine.stats()
    await engine.close()
    residents, index, stream = ResidentSet(), BlockIndex(), StreamId("w")
    forgotten = 0
    async for batch in engine.cache_events():
        for event in batch:
            if isinstance(event, SequenceFinished):
                continue
            residents.apply(event)
            if hasattr(event, "token_ids"):
                index.stored(stream, event)
            elif hasattr(event, "origin") and not hasattr(event, "start_block"):
                forgotten += len(index.removed(stream, event.tier, event.block_hashes))
    copied = ResidentSet(residents.snapshot())

    assert stats.preemptions_total > 0
    assert stats.blocks_onboarded_total > 0
    assert stats.blocks_evicted_total == forgotten > 0
    assert len(residents.hashes(Tier.DEVICE)) == stats.blocks_cached
    assert len(residents.hashes(Tier.HOST)) == stats.host_blocks_cached == 8
    assert not residents.hashes(Tier.DEVICE) & residents.hashes(Tier.HOST)
    assert copied.digest() == residents.digest()
    assert index.resident() == {
        (stream, Tier.DEVICE): stats.blocks_cached,
        (stream, Tier.HOST): stats.host_blocks_cached,
    }


async def test_the_laws_of_events_hold_with_two_tiers(name: EngineName) -> None:
    engine = create_engine(name, with_host(name, 9))
    info = await engine.start()
    for prompt in (A, B, A, B, [*A, 1, 2, 3], B):
        await ask(engine, request(prompt))
    found_on = [len(event.block_hashes) for event in (await replay(engine, info)).reused]

    assert sum(found_on) > 0


async def test_a_pinned_prefix_outlives_newer_prompts(name: EngineName) -> None:
    pinned = Retention(ranges=(RetentionRange(start=0, stop=20, priority=100),))
    for retention, expected in ((None, 0), (pinned, 20)):
        engine = create_engine(name, config(num_kv_blocks=18))
        async with started(engine):
            await ask(engine, request(A, retention=retention))
            await ask(engine, request(B))
            await ask(engine, request(range(110, 140)))

            assert await cached(engine, A) == expected


async def test_what_is_worth_nothing_goes_before_what_is_older(name: EngineName) -> None:
    engine = create_engine(name, config(num_kv_blocks=26))
    worthless = Retention(
        ranges=(RetentionRange(start=0, stop=None, priority=0),), decode_priority=0
    )
    async with started(engine):
        await ask(engine, request(A))
        await ask(engine, request(B, retention=worthless))
        await ask(engine, request(range(110, 140)))

        assert await cached(engine, A) == 36
        assert await cached(engine, B) == 20


@pytest.mark.parametrize(
    ("retention", "field"),
    [
        (Retention(ranges=(RetentionRange(start=-1, stop=2, priority=1),)), "ranges[0].start"),
        (Retention(ranges=(RetentionRange(start=2, stop=2, priority=1),)), "ranges[0].stop"),
        (Retention(ranges=(RetentionRange(start=0, stop=2, priority=101),)), "ranges[0].priority"),
        (
            Retention(ranges=(RetentionRange(start=0, stop=2, priority=1, duration_s=0.0),)),
            "ranges[0].duration_s",
        ),
        (Retention(decode_priority=-1), "decode_priority"),
        (Retention(decode_duration_s=float("inf")), "decode_duration_s"),
    ],
)
async def test_a_retention_that_cannot_be_is_refused(retention: Retention, field: str) -> None:
    async with started(engine := create_engine("fake", config())):
        with pytest.raises(InvalidRequestError) as refused:
            await ask(engine, request(A, retention=retention))

    assert refused.value.field == f"retention.{field}"


async def test_a_host_tier_of_less_than_two_blocks_does_not_start(name: EngineName) -> None:
    engine = create_engine(name, config(host_cache_size=9))

    with pytest.raises(EngineFailedError, match=r"host_cache_size=9 bytes: .* at least 2 blocks"):
        await engine.start()
    await engine.close()


async def test_a_host_tier_beyond_the_machine_does_not_start() -> None:
    engine = create_engine("torch", config(host_cache_size=1 << 60))

    with pytest.raises(EngineFailedError, match="host_cache_size=1152921504606846976 bytes"):
        await engine.start()
    await engine.close()


@pytest.mark.parametrize("name", EMBEDDED)
async def test_a_policy_that_is_not_there_does_not_start(name: EngineName) -> None:
    engine = create_engine(name, config(eviction_policy="nowhere:Policy"))

    with pytest.raises(UnusableInputError, match="eviction_policy: 'nowhere:Policy'"):
        await engine.start()
    await engine.close()
