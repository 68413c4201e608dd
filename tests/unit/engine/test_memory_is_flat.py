"""An engine that has served ten thousand requests is no larger than after two thousand."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from random import Random

import pytest

from engine_calls import EngineName, config, make_engine, request, started
from shepherd_worker.engine.protocol import Engine
from shepherd_worker.errors import InvalidRequestError
from shepherd_worker.request import GenerateRequest, Sampling

NUM_WARM, NUM_MORE, CONCURRENT = 2_000, 8_000, 32
ALLOWED_BYTES = 6 << 20
"""Less than 800 bytes a request: one leaked prompt, block table or stream would show."""
ALLOWED_OBJECTS = NUM_MORE // 4
"""Of those that Python's collector knows; memory that was freed before could hide small ones."""


def resident_bytes() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def calls(count: int, random: Random) -> Iterator[GenerateRequest]:
    """Requests of every kind: shared and fresh prompts, greedy and sampled, right and wrong."""
    for number in range(count):
        sampling = Sampling(temperature=random.choice([0.0, 0.8]), presence_penalty=0.1)
        prompt = [7] * random.randrange(1, 24) + [random.randrange(200) for _ in range(4)]
        if number % 50 == 0:
            prompt.append(2**31)
        yield request(prompt, random.randrange(1, 6), request_id=f"r{number}", sampling=sampling)


async def serve(engine: Engine, count: int, random: Random) -> None:
    """Let clients ask until all calls are made; every ninth leaves after its first token."""
    source = enumerate(calls(count, random))

    async def client() -> None:
        for number, call in source:
            try:
                async with aclosing(engine.generate(call)) as chunks:
                    async for _ in chunks:
                        if number % 9 == 0:
                            break
            except InvalidRequestError:
                assert number % 50 == 0

    await asyncio.gather(*(client() for _ in range(CONCURRENT)))


async def meet_every_size(engine: Engine, random: Random) -> None:
    """On a CPU oneDNN compiles and keeps a kernel for each number of rows that it meets."""

    async def ask(length: int) -> None:
        call = request(random.choices(range(200), k=length), 3)
        async with aclosing(engine.generate(call)) as chunks:
            async for _ in chunks:
                pass

    for count in range(1, CONCURRENT + 1):
        await asyncio.gather(*(ask(1) for _ in range(count)))
    for length in range(2, 448, 6):
        await ask(length)


@pytest.mark.parametrize("name", ["fake", "torch"])
async def test_ten_thousand_requests_leave_nothing_behind(name: EngineName) -> None:
    engine, random = make_engine(name, config(num_kv_blocks=128)), Random(0)
    async with started(engine), asyncio.TaskGroup() as tasks:

        async def read_events() -> None:
            async for _ in engine.cache_events():
                pass

        reader = tasks.create_task(read_events())
        await meet_every_size(engine, random)
        await serve(engine, NUM_WARM, random)
        objects_before = len(gc.get_objects())  # first: the list itself is memory
        before = resident_bytes()
        await serve(engine, NUM_MORE, random)
        grown = resident_bytes() - before
        objects = len(gc.get_objects()) - objects_before
        stats = engine.stats()
        reader.cancel()

    assert stats.generated_tokens_total > NUM_WARM + NUM_MORE
    assert (stats.num_running, stats.num_waiting, stats.blocks_referenced) == (0, 0, 0)
    assert objects < ALLOWED_OBJECTS
    assert grown < ALLOWED_BYTES
