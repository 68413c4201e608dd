"""What fails with one request, and what fails with the engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from engine_calls import ask, ask_all, config, request, until
from shepherd_worker.engine.embedded.engine import EmbeddedEngine
from shepherd_worker.engine.embedded.runner import RunnerInfo, Samples, SamplingError
from shepherd_worker.engine.embedded.scheduler import StepPlan
from shepherd_worker.engine.fake import FakeRunner
from shepherd_worker.errors import EngineDeadError, EngineFailedError
from shepherd_worker.request import FinishReason, Usage


class FaultyRunner(FakeRunner):
    """Does something else instead of one of its forward passes, counted from 1."""

    def __init__(self, at: int, fault: Callable[[], list[Samples]]) -> None:
        super().__init__(config())
        self._steps_left, self._fault = at, fault

    def forward(self, plan: StepPlan) -> list[Samples]:
        self._steps_left -= 1
        results = super().forward(plan)
        return [*self._fault(), *results[1:]] if self._steps_left == 0 else results


class UnloadableRunner(FakeRunner):
    """Fails in a way that nobody foresaw."""

    def load(self) -> RunnerInfo:
        raise RuntimeError("no such kernel")


def out_of_memory() -> list[Samples]:
    raise MemoryError("device")


async def test_a_request_that_cannot_be_sampled_fails_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runner = FaultyRunner(3, lambda: [(SamplingError("not finite"),)])
    engine = EmbeddedEngine(config(), runner, name="fake")
    await engine.start()
    with caplog.at_level(logging.ERROR):
        answers = await ask_all(engine, [request([1, 2, i], 6) for i in range(3)])
    stats = engine.stats()
    await engine.close()

    reasons = [answer.finish_reason for answer in answers]
    assert sorted(map(str, reasons)) == ["error", "length", "length"]
    (failed,) = (a for a in answers if a.finish_reason is FinishReason.ERROR)
    assert failed.usage == Usage(3, 0, len(failed.token_ids))
    assert stats.requests_failed_total == 1
    assert stats.blocks_referenced == 0
    assert [record.message for record in caplog.records] == ["request r failed"]


async def test_an_engine_that_dies_tells_every_request_and_the_reader_of_its_events(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = EmbeddedEngine(config(), FaultyRunner(2, out_of_memory), name="fake")
    await engine.start()
    with caplog.at_level(logging.CRITICAL):
        calls = (ask(engine, request([i], 50)) for i in range(5))
        answers = await asyncio.gather(*calls, return_exceptions=True)

    assert [str(answer) for answer in answers] == ["the engine died: MemoryError('device')"] * 5
    assert {type(answer) for answer in answers} == {EngineDeadError}
    assert not engine.is_healthy()
    with pytest.raises(EngineDeadError, match="MemoryError"):
        await ask(engine, request([1]))
    with pytest.raises(EngineDeadError, match="MemoryError"):
        async for batch in engine.cache_events():
            assert batch
    await engine.drain()
    await engine.close()


async def test_a_start_that_fails_unforeseen_is_told_as_a_start_error() -> None:
    engine = EmbeddedEngine(config(), UnloadableRunner(config()), name="fake")

    with pytest.raises(EngineFailedError, match=r"did not start: RuntimeError.*no such kernel"):
        await engine.start()
    await engine.close()


async def test_a_start_that_is_given_up_leaves_nothing_running() -> None:
    engine = EmbeddedEngine(config(), FakeRunner(config()), name="fake")
    starting = asyncio.create_task(engine.start())
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await engine.close()

    assert starting.cancelled()
    await until(lambda: not engine.is_healthy())
    with pytest.raises(EngineDeadError, match="closed"):
        await ask(engine, request([1]))
