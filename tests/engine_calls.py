"""Requests and answers of an engine, as tests write them."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from cache_replica import CacheReplica

from shepherd_events.events import Attribution
from shepherd_worker.engine.protocol import Engine, EngineInfo, Handoff
from shepherd_worker.request import (
    FinishReason,
    GenerateRequest,
    Sampling,
    StopConditions,
    TokenChunk,
    TokenLogprob,
    Usage,
)

GREEDY = Sampling(temperature=0.0)


def request(
    prompt: Iterable[int],
    max_tokens: int | None = 8,
    *,
    request_id: str = "r",
    sampling: Sampling = GREEDY,
    ignore_eos: bool = True,
    stops: dict[str, Any] | None = None,
    **fields: Any,
) -> GenerateRequest:
    """A greedy request that runs to its length, unless said otherwise."""
    conditions = {"max_tokens": max_tokens, "ignore_eos": ignore_eos, **(stops or {})}
    return GenerateRequest(
        request_id=request_id,
        token_ids=array("I", prompt),
        sampling=sampling,
        stops=StopConditions(**conditions),
        origin=Attribution(request_id),
        **fields,
    )


@dataclass(frozen=True)
class Answer:
    """All chunks of one sequence, put together."""

    token_ids: list[int]
    logprobs: list[TokenLogprob]
    finish_reason: FinishReason | None
    stop_reason: str | int | None
    usage: Usage | None


async def ask(engine: Engine, call: GenerateRequest, handoff: Handoff | None = None) -> Answer:
    """Run one request to its end."""
    chunks: list[TokenChunk] = []
    async with aclosing(engine.generate(call, handoff)) as stream:
        async for chunk in stream:
            chunks.append(chunk)  # noqa: PERF401 - aclosing needs the loop

    assert all(chunk.finish_reason is None and chunk.usage is None for chunk in chunks[:-1])
    last = chunks[-1]
    return Answer(
        [token for chunk in chunks for token in chunk.token_ids],
        [logprob for chunk in chunks for logprob in chunk.logprobs],
        last.finish_reason,
        last.stop_reason,
        last.usage,
    )


async def ask_all(engine: Engine, calls: Iterable[GenerateRequest]) -> list[Answer]:
    """Run requests at once."""
    return await asyncio.gather(*(ask(engine, call) for call in calls))


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait for something that another thread brings about."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.001)


@asynccontextmanager
async def started(engine: Engine) -> AsyncIterator[EngineInfo]:
    """An engine that serves within the block."""
    try:
        yield await engine.start()
    finally:
        await engine.close()


async def replay(engine: Engine, info: EngineInfo) -> CacheReplica:
    """Close an engine and learn from its events what its cache held."""
    await engine.close()
    replica = CacheReplica(info.root_hash, info.block_size)
    async for batch in engine.cache_events():
        assert batch
        replica.apply(batch)
    return replica
