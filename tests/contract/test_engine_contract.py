"""What every engine promises while requests come, run, are given up and end."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from engine_calls import (
    EMBEDDED,
    EVERY,
    Answer,
    EngineName,
    ask,
    ask_all,
    chosen,
    config,
    make_engine,
    request,
    started,
    stepped,
    until,
)
from shepherd_worker.engine import create_engine
from shepherd_worker.engine.protocol import Engine
from shepherd_worker.errors import (
    EngineDeadError,
    OverloadedError,
    StartError,
    UnusableInputError,
)
from shepherd_worker.request import FinishReason, GenerateRequest, TokenChunk, Usage

PROMPT = range(10, 23)
LONG = 400


@pytest.fixture(params=EVERY)
def name(request: pytest.FixtureRequest) -> EngineName:
    return chosen(request.param)


def is_empty(engine: Engine) -> bool:
    stats = engine.stats()
    return (stats.num_running, stats.num_waiting, stats.blocks_referenced) == (0, 0, 0)


async def read_one(engine: Engine, call: GenerateRequest) -> None:
    async with aclosing(engine.generate(call)) as stream:
        await anext(stream)


async def test_a_stream_ends_with_one_reason_and_the_bill(name: EngineName) -> None:
    engine = create_engine(name, config())
    async with started(engine) as info:
        chunks = [chunk async for chunk in engine.generate(request(PROMPT, 9))]

        assert info.engine == name
        assert sum(len(chunk.token_ids) for chunk in chunks) == 9
        assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == [
            FinishReason.LENGTH
        ]
        assert [chunk.usage for chunk in chunks if chunk.usage] == [Usage(13, 0, 9)]
        assert chunks[-1].usage == Usage(13, 0, 9)
        assert is_empty(engine)
        assert engine.stats().generated_tokens_total == 9


@pytest.mark.parametrize("name", EMBEDDED)
async def test_closing_a_stream_frees_its_blocks_within_one_step(name: EngineName) -> None:
    engine, runner = stepped(name)
    async with started(engine):
        stream = engine.generate(request(PROMPT, LONG))
        runner.let_go(3)
        await anext(stream)
        await until(lambda: runner.num_begun == 4)
        assert engine.stats().blocks_referenced > 0

        await stream.aclose()
        runner.let_go(1)
        await until(lambda: is_empty(engine))

        assert runner.num_begun == 4
        assert engine.stats().generated_tokens_total == 4


async def test_a_burst_of_cancels_leaves_nothing_behind(name: EngineName) -> None:
    engine = create_engine(name, config(max_batch_size=8))
    async with started(engine) as info:
        calls = [request([i, *PROMPT], LONG, request_id=str(i)) for i in range(50)]
        tasks = [asyncio.create_task(read_one(engine, call)) for call in calls]
        await asyncio.wait(tasks[:5])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: is_empty(engine))

        stats = engine.stats()
        assert stats.blocks_cached + stats.blocks_empty == sum(info.num_blocks.values())
        assert stats.requests_failed_total == 0
        assert len((await ask(engine, request(PROMPT, 4))).token_ids) == 4


async def test_drain_refuses_new_requests_and_waits_for_the_running_ones(name: EngineName) -> None:
    engine, runner = stepped(name)
    async with started(engine):
        running = asyncio.create_task(ask(engine, request(PROMPT, 5)))
        await until(lambda: runner.num_begun == 1)
        draining = asyncio.create_task(engine.drain())
        await asyncio.sleep(0)

        with pytest.raises(OverloadedError):
            await ask(engine, request(PROMPT))
        assert not draining.done()

        runner.let_go(5)
        await draining
        assert len((await running).token_ids) == 5


async def test_close_ends_running_and_waiting_requests_and_is_safe_twice(name: EngineName) -> None:
    engine, runner = stepped(name)
    await engine.start()
    calls = [asyncio.create_task(ask(engine, request([i], LONG))) for i in range(40)]
    await until(lambda: runner.num_begun == 1)
    closing = asyncio.gather(engine.close(), engine.close())
    await asyncio.sleep(0)  # closing has begun, and no number of steps lets a request end
    runner.let_go(LONG)
    await closing
    answers = await asyncio.gather(*calls, return_exceptions=True)
    await engine.close()

    assert {type(answer) for answer in answers} == {EngineDeadError}
    with pytest.raises(EngineDeadError):
        await ask(engine, request(PROMPT))
    with pytest.raises(EngineDeadError):
        await engine.prefill(request(PROMPT))
    assert not engine.is_healthy()
    assert is_empty(engine)


async def test_a_drain_ends_when_the_engine_is_closed(name: EngineName) -> None:
    engine = create_engine(name, config(disaggregated=True))
    await engine.start()
    await engine.prefill(request(PROMPT))
    draining = asyncio.create_task(engine.drain())
    await asyncio.sleep(0)
    assert not draining.done()

    await engine.close()
    async with asyncio.timeout(5):
        await draining


async def test_closing_while_the_engine_starts_ends_the_start(name: EngineName) -> None:
    engine = create_engine(name, config())
    starting = asyncio.create_task(engine.start())
    await asyncio.sleep(0)
    await engine.close()

    with pytest.raises(EngineDeadError):
        await starting


@pytest.mark.parametrize("name", EMBEDDED)
async def test_a_start_that_fails_says_why_and_can_be_closed(
    name: EngineName, tmp_path: Path
) -> None:
    engine = create_engine(name, config(transfer_host="127.0.0.1.1"))
    with pytest.raises(UnusableInputError, match=r"--transfer-host '127\.0\.0\.1\.1' is not loop"):
        await engine.start()
    await engine.close()
    await engine.close()

    broken = config(num_kv_blocks=1, block_size=1)
    small = create_engine(name, broken)
    with pytest.raises(StartError, match="1 KV blocks of 1 tokens"):
        await small.start()
    await small.close()


async def test_an_engine_that_was_never_started_refuses_and_closes(name: EngineName) -> None:
    engine = create_engine(name, config())

    with pytest.raises(EngineDeadError, match="not started"):
        await ask(engine, request(PROMPT))
    await engine.drain()
    await engine.close()


@pytest.mark.parametrize("name", EMBEDDED)
async def test_a_context_beyond_the_model_s_is_refused(name: EngineName) -> None:
    engine = create_engine(name, config(max_seq_len=513))

    with pytest.raises(UnusableInputError, match=r"max_seq_len=513 .* context of 512 tokens"):
        await engine.start()
    await engine.close()


async def test_one_more_than_may_wait_is_refused_and_the_others_are_served(
    name: EngineName,
) -> None:
    limits = config(max_batch_size=2, max_waiting=3)
    engine, runner = stepped(name, limits)
    async with started(engine):
        first = asyncio.create_task(ask_all(engine, [request([i], 2) for i in range(2)]))
        await until(lambda: runner.num_begun == 1)
        calls = [asyncio.create_task(ask(engine, request([9, i], 2))) for i in range(6)]
        await asyncio.sleep(0.01)  # all of them were submitted, whatever becomes of them
        runner.let_go(100)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        await first

        assert [type(answer) for answer in answers] == [Answer] * 3 + [OverloadedError] * 3
        refusals = [answer for answer in answers if isinstance(answer, OverloadedError)]
        assert [(refused.limit, refused.retry_after_s) for refused in refusals] == [(3, 1)] * 3
        assert engine.stats().requests_refused_total == 3
        assert is_empty(engine)


@pytest.mark.parametrize("name", EMBEDDED)
async def test_what_became_ready_together_arrives_together(name: EngineName) -> None:
    engine = make_engine(name)
    async with started(engine):
        call = request(PROMPT, 40, logprobs=0)
        expected = await ask(engine, call)
        stream = engine.generate(call)
        chunks: list[TokenChunk] = [await anext(stream)]
        await until(lambda: not engine._streams)
        chunks += [chunk async for chunk in stream]

        tokens = [token for chunk in chunks for token in chunk.token_ids]
        assert len(chunks) == 2
        assert tokens == expected.token_ids
        assert [entry.token_id for chunk in chunks for entry in chunk.logprobs] == tokens
        assert chunks[1].usage is not None
        assert chunks[0].finish_reason is None
