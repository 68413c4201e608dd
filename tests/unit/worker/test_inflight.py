"""Requests that end early: the client leaves, the worker leaves, nothing is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from shepherd_worker.errors import DrainDeadlineError
from shepherd_worker.inflight import InFlight


class Context:
    def __init__(self) -> None:
        self.stopped: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def id(self) -> str:
        return "id"

    def async_killed_or_stopped(self) -> asyncio.Future[bool]:
        return asyncio.shield(self.stopped)


class SlowEngine:
    """Yields 1, then never again; knows whether it was closed."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def generate(self) -> AsyncGenerator[int, None]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            self.closed.set()


async def test_results_pass_in_order_until_they_end() -> None:
    async def three() -> AsyncGenerator[int, None]:
        for number in (1, 2, 3):
            yield number

    inflight = InFlight()

    assert [n async for n in inflight.until_stopped(three(), Context())] == [1, 2, 3]
    assert len(inflight) == 0


async def test_a_client_that_leaves_ends_the_engines_iterator_while_it_is_waiting() -> None:
    engine, context, inflight = SlowEngine(), Context(), InFlight()
    received: list[int] = []

    async def serve() -> None:
        received.extend([n async for n in inflight.until_stopped(engine.generate(), context)])

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(serve())
        await asyncio.sleep(0)
        context.stopped.set_result(True)

    assert received == [1]
    assert engine.closed.is_set()
    assert len(inflight) == 0


async def test_the_deadline_cuts_what_is_in_progress_and_frees_the_engine() -> None:
    engine, inflight = SlowEngine(), InFlight()

    async def serve() -> None:
        with pytest.raises(DrainDeadlineError):
            async for _ in inflight.until_stopped(engine.generate(), Context()):
                inflight.cut()

    await serve()

    assert engine.closed.is_set()
    assert await inflight.drained(0)


async def test_an_error_of_the_engine_reaches_the_caller() -> None:
    async def broken() -> AsyncGenerator[int, None]:
        yield 1
        raise ValueError("broken")

    inflight = InFlight()
    with pytest.raises(ValueError, match="broken"):
        async for _ in inflight.until_stopped(broken(), Context()):
            pass

    assert len(inflight) == 0


async def test_draining_waits_for_requests_and_says_when_it_did_not_suffice() -> None:
    inflight, context, engine = InFlight(), Context(), SlowEngine()
    results = inflight.until_stopped(engine.generate(), context)

    assert await anext(results) == 1
    assert not await inflight.drained(0.01)

    context.stopped.set_result(True)
    assert [n async for n in results] == []
    assert await inflight.drained(0.01)
