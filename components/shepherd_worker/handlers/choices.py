"""Several answers to one prompt: sequences of the engine, their chunks as they come.

The first begins alone; with its first token the prompt is in the cache, where
the others find it, so that it is computed (or fetched from a prefill worker)
once.  A seed counts up from choice to choice.  Only the first choice belongs to
the conversation: which of them it goes on with is told by its next prompt.

The best of several are told when all have ended: those whose tokens were the
likeliest on average.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from shepherd_worker.request import Choices, GenerateRequest, TokenChunk, joined

Generate = Callable[[GenerateRequest], AsyncGenerator[TokenChunk, None]]
Answers = AsyncGenerator[tuple[int, TokenChunk], None]
"""Chunks, each with the index of its choice."""
Results = asyncio.Queue[tuple[int, TokenChunk | Exception]]


def answer_choices(
    first: Generate, generate: Generate, call: GenerateRequest, wanted: Choices
) -> Answers:
    """The chunks of all choices; `first` answers the first of them, `generate` the others.

    Closing it ends every choice, and so does one that fails.

    Raises:
        WorkerError: as `Engine.generate`.
    """
    if wanted.of == wanted.num:
        return _each(first, generate, call, wanted.num)
    return _best(first, generate, call, wanted)


async def _each(first: Generate, generate: Generate, call: GenerateRequest, num: int) -> Answers:
    results: Results = asyncio.Queue()
    tasks = [asyncio.create_task(_read(0, first(call), results))]
    try:
        running = num
        while running:
            index, result = await results.get()
            if isinstance(result, Exception):
                raise result
            for other in range(len(tasks), num):
                chunks = generate(_choice(call, other))
                tasks.append(asyncio.create_task(_read(other, chunks, results)))
            running -= result.finish_reason is not None
            yield index, result
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _best(
    first: Generate, generate: Generate, call: GenerateRequest, wanted: Choices
) -> Answers:
    compared = dataclasses.replace(call, logprobs=call.logprobs or 0)
    told: list[list[TokenChunk]] = [[] for _ in range(wanted.of)]
    async with aclosing(_each(first, generate, compared, wanted.of)) as chunks:
        async for index, chunk in chunks:
            told[index].append(chunk)
    ranked = sorted((joined(chunks) for chunks in told), key=_mean_logprob, reverse=True)
    for index, answer in enumerate(ranked[: wanted.num]):
        yield (
            index,
            answer if call.logprobs is not None else dataclasses.replace(answer, logprobs=()),
        )


def _mean_logprob(answer: TokenChunk) -> float:
    return sum(entry.logprob for entry in answer.logprobs) / max(1, len(answer.logprobs))


def _choice(call: GenerateRequest, index: int) -> GenerateRequest:
    seed = call.sampling.seed
    sampling = call.sampling
    if seed is not None:
        sampling = dataclasses.replace(sampling, seed=seed + index)
    return dataclasses.replace(call, sampling=sampling, origin=None)


async def _read(index: int, chunks: AsyncGenerator[TokenChunk, None], results: Results) -> None:
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                results.put_nowait((index, chunk))
    except Exception as error:  # noqa: BLE001 - a task's edge; whoever reads the results raises it
        results.put_nowait((index, error))
