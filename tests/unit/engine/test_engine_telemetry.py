"""How long sequences wait, cancellations take and KV travels, to the very second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

from engine_calls import SteppedRunner, ask, config, make_engine, request, started, until
from shepherd_telemetry.fake import KeptSpans
from shepherd_telemetry.spans import Kind
from shepherd_telemetry.trace_context import TraceContext, working_for
from shepherd_worker.engine.embedded.engine import EmbeddedEngine
from shepherd_worker.engine.fake import FakeRunner
from shepherd_worker.engine.protocol import Engine
from shepherd_worker.engine.telemetry import EngineTelemetry, Waits

CLIENT = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
PREFILL = TraceContext("0af7651916cd43dd8448eb211c80319c", "00f067aa0ba902b7")


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Stepping:
    """An engine with one place, whose passes and whose clock belong to the test."""

    def __init__(self) -> None:
        self.clock = Clock()
        sizes = config(max_batch_size=1)
        self.runner = SteppedRunner(FakeRunner(sizes))
        telemetry = EngineTelemetry(clock=self.clock)
        self.engine = EmbeddedEngine(sizes, self.runner, name="fake", telemetry=telemetry)

    @asynccontextmanager
    async def started(self) -> AsyncIterator[None]:
        """Whatever fails in the block, no pass waits for ever behind it."""
        async with started(self.engine):
            try:
                yield
            finally:
                self.runner.let_go(100)


def told(engine: Engine, name: str) -> tuple[float, float]:
    """How many were measured, and their sum in seconds."""
    samples = {each.name: each.value for metric in engine.metrics() for each in metric.samples}
    full = f"shepherd_worker_{name}_seconds"
    return samples[f"{full}_count"], samples[f"{full}_sum"]


def test_what_is_begun_twice_counts_from_the_first_and_what_is_dropped_never() -> None:
    clock = Clock()
    telemetry = EngineTelemetry(clock=clock)
    waits: Waits[str] = Waits(telemetry.queue_wait, clock)
    for key in ("a", "b"):
        waits.begin(key)
    clock.now_s += 1.5
    waits.begin("a")
    waits.drop("b")
    for key in ("a", "a", "b", "nobody"):
        waits.end(key)

    samples = {each.name: each.value for m in telemetry.metrics() for each in m.samples}
    assert samples["shepherd_worker_queue_wait_seconds_count"] == 1
    assert samples["shepherd_worker_queue_wait_seconds_sum"] == 1.5
    assert len(waits) == 0


async def test_the_wait_of_a_sequence_behind_another_is_measured() -> None:
    stepping = Stepping()
    engine, runner, clock = stepping.engine, stepping.runner, stepping.clock
    async with stepping.started():
        first = asyncio.create_task(ask(engine, request(range(5), 2)))
        await until(lambda: runner.num_begun == 1)
        second = asyncio.create_task(ask(engine, request(range(5), 1, request_id="second")))
        await until(lambda: len(engine._streams) == 2)
        runner.let_go(1)
        await until(lambda: runner.num_begun == 2)
        clock.now_s += 2.5
        runner.let_go(2)
        await asyncio.gather(first, second)

    assert told(engine, "queue_wait") == (2, 2.5)


async def test_a_cancellation_takes_until_the_engine_has_let_go() -> None:
    stepping = Stepping()
    engine, runner, clock = stepping.engine, stepping.runner, stepping.clock
    async with stepping.started():
        async with aclosing(engine.generate(request(range(5), 8))) as chunks:
            runner.let_go(1)
            await anext(chunks)
            await until(lambda: runner.num_begun == 2)
        assert told(engine, "cancel_latency") == (0, 0.0)

        clock.now_s += 0.75
        runner.let_go(1)
        await until(lambda: told(engine, "cancel_latency")[0] == 1)
        assert engine.stats().blocks_referenced == 0

        runner.let_go(1)
        await ask(engine, request(range(5), 1))
    assert told(engine, "cancel_latency") == (1, 0.75)


async def test_a_transfer_is_timed_and_is_a_span_linked_to_the_prefill_worker_s() -> None:
    spans, clock = KeptSpans(), Clock()
    telemetry = EngineTelemetry(spans, clock=clock)
    prefill, decode = make_engine("fake"), make_engine("fake", telemetry=telemetry)
    async with started(prefill), started(decode):
        result = await prefill.prefill(request(range(10, 27)))
        handoff = replace(result.handoff, traceparent=PREFILL.traceparent)
        with working_for(CLIENT):
            await ask(decode, request(range(10, 27)), handoff)
        sent = prefill.stats().transfer_bytes_total

    (span,) = spans.kept
    assert (span.name, span.kind, span.failure) == ("kv_transfer", Kind.CLIENT, "")
    assert (span.parent, span.links) == (CLIENT, [PREFILL])
    assert span.attributes == {"shepherd.kv.blocks": 4, "shepherd.kv.bytes": sent}
    assert told(decode, "kv_transfer_duration") == (1, 0.0)

    with telemetry.transferring(handoff, 4) as transfer:
        clock.now_s += 0.25
        transfer.came([memoryview(b"1234")])
    assert told(decode, "kv_transfer_duration") == (2, 0.25)


async def test_a_handoff_that_cannot_be_fetched_is_no_transfer_and_a_span_without_bytes() -> None:
    spans = KeptSpans()
    prefill = make_engine("fake")
    decode = make_engine("fake", telemetry=EngineTelemetry(spans))
    async with started(prefill), started(decode):
        result = await prefill.prefill(request(range(10, 27)))
        assert result.handoff.ticket is not None
        lost = replace(result.handoff, ticket=replace(result.handoff.ticket, addresses=()))
        await ask(decode, request(range(10, 27)), lost)

    (span,) = spans.kept
    assert span.attributes == {"shepherd.kv.blocks": 4, "shepherd.kv.bytes": 0}
    assert (span.parent, span.links) == (None, [])
    assert told(decode, "kv_transfer_duration") == (0, 0.0)
