"""What every engine promises about its cache: hits, isolation, and events that tell the truth."""

from __future__ import annotations

import asyncio
import math
from contextlib import aclosing
from random import Random

import pytest

from cache_replica import CacheReplica
from engine_calls import EVERY, EngineName, ask, ask_all, chosen, config, replay, request
from shepherd_events.block_hash import salt_id
from shepherd_events.events import Attribution, BlocksRemoved, BlocksStored
from shepherd_worker.engine import create_engine
from shepherd_worker.engine.protocol import Engine, SequenceFinished
from shepherd_worker.request import FinishReason, GenerateRequest

PROMPT = range(10, 27)
"""17 tokens: four full blocks and one more."""


@pytest.fixture(params=EVERY)
def name(request: pytest.FixtureRequest) -> EngineName:
    return chosen(request.param)


async def test_a_repeated_prompt_is_billed_as_cached_and_answered_alike(name: EngineName) -> None:
    engine = create_engine(name, config())
    info = await engine.start()
    first = await ask(engine, request(PROMPT))
    second = await ask(engine, request(PROMPT))
    longer = await ask(engine, request([*PROMPT, *first.token_ids, 3]))

    assert [a.usage and a.usage.cached_tokens for a in (first, second, longer)] == [0, 16, 24]
    assert second.token_ids == first.token_ids
    assert engine.stats().prompt_tokens_cached_total == 40
    assert engine.stats().prompt_tokens_total == 17 + 17 + 26

    replica = await replay(engine, info)
    assert [len(event.block_hashes) for event in replica.reused] == [4, 6]


async def test_different_salts_never_share_a_block(name: EngineName) -> None:
    engine = create_engine(name, config())
    await engine.start()
    salts = ["", "tenant-a", "tenant-b"]
    answers = [await ask(engine, request(PROMPT, cache_salt=salt)) for salt in (*salts, *salts)]
    await engine.close()
    stored: dict[bytes, set[int]] = {salt_id(salt): set() for salt in salts}
    async for batch in engine.cache_events():
        for event in batch:
            if isinstance(event, BlocksStored):
                stored[event.context.cache_salt_id] |= set(event.block_hashes)

    assert [a.usage and a.usage.cached_tokens for a in answers] == [0, 0, 0, 16, 16, 16]
    assert len({tuple(answer.token_ids) for answer in answers}) == 1
    assert [len(hashes) for hashes in stored.values()] == [6, 6, 6]
    assert len(set().union(*stored.values())) == 18


async def give_up_after(call: GenerateRequest, num_chunks: int, engine: Engine) -> None:
    async with aclosing(engine.generate(call)) as stream:
        for _ in range(num_chunks):
            await anext(stream, None)


async def test_the_events_tell_what_the_cache_holds_and_how_every_sequence_ended(
    name: EngineName,
) -> None:
    engine = create_engine(name, config(num_kv_blocks=24, max_batch_size=4, max_num_tokens=16))
    info = await engine.start()
    random = Random(5)
    prompts = [[1, 2, 3, 4] * (i % 3) + random.choices(range(9), k=5 + i) for i in range(18)]
    calls = [request(prompt, 12, request_id=str(i)) for i, prompt in enumerate(prompts)]
    given_up = [request([7, i, 7, 7, 7], 60, request_id=f"given-up-{i}") for i in range(4)]
    gone = asyncio.gather(*(give_up_after(call, 2, engine) for call in given_up))
    answers = await ask_all(engine, calls)
    await gone
    replica = await replay(engine, info)
    stats = engine.stats()

    assert stats.blocks_evicted_total > 0
    assert len(replica.removed) == stats.blocks_evicted_total
    assert len(replica.resident) == stats.blocks_cached
    ended = {event.origin.request_id: event for event in replica.finished if event.origin}
    assert len(replica.finished) == 22
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        event = ended[str(i)]
        assert replica.text(event) == [*prompt, *answer.token_ids]
        assert event.finish_reason is FinishReason.LENGTH
        assert answer.usage is not None
        assert event.cached_tokens == answer.usage.cached_tokens


async def test_a_sequence_is_told_between_its_last_stored_and_its_first_removed_block(
    name: EngineName,
) -> None:
    engine = create_engine(name, config(num_kv_blocks=10))
    await engine.start()
    for start in (10, 50, 90):
        await ask(engine, request(range(start, start + 17), request_id=str(start)))
    await engine.close()
    events = [event async for batch in engine.cache_events() for event in batch]
    stored_at: dict[int, int] = {}
    removed_at: dict[int, int] = {}
    own_blocks: dict[Attribution | None, list[int]] = {}
    for at, event in enumerate(events):
        if isinstance(event, BlocksStored):
            stored_at |= dict.fromkeys(event.block_hashes, at)
            own_blocks.setdefault(event.origin, []).extend(event.block_hashes)
        elif isinstance(event, BlocksRemoved):
            removed_at |= dict.fromkeys(event.block_hashes, at)
    ends = {e.origin: at for at, e in enumerate(events) if isinstance(e, SequenceFinished)}

    assert [len(blocks) for blocks in own_blocks.values()] == [6, 6, 6]
    assert len(removed_at) >= 8
    for origin, end in ends.items():
        assert max(stored_at[block] for block in own_blocks[origin]) < end
        assert min(removed_at.get(block, math.inf) for block in own_blocks[origin]) > end


async def test_events_wait_for_their_reader_and_end_with_the_engine(name: EngineName) -> None:
    engine = create_engine(name, config())
    info = await engine.start()
    await ask(engine, request(PROMPT, 1))
    live = aiter(engine.cache_events())
    replica = CacheReplica(info.root_hash, info.block_size)
    while not replica.finished:
        replica.apply(await anext(live))

    assert len(replica.resident) == 4
    await engine.close()
    assert [batch async for batch in live] == []
