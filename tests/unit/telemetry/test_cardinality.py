"""A thousand sessions of fifty tenants leave the number of series as it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio
from prometheus_client import CollectorRegistry, generate_latest

from chat_models import model
from metric_rules import series
from shepherd_memory.archive.files import SqliteArchives
from shepherd_memory.clocks import Clocks
from shepherd_memory.consumer import Consumer
from shepherd_memory.fake import FakeWorker, SpelledTranscript
from shepherd_memory.index_store import IndexStore
from shepherd_memory.metrics import Metrics
from shepherd_worker.attribution import Attributor
from shepherd_worker.config import Role
from shepherd_worker.engine.fake import FakeEngine
from shepherd_worker.engine.protocol import EngineConfig
from shepherd_worker.engine_metrics import EngineCollector
from shepherd_worker.handlers import Intake, create_handler
from shepherd_worker.inflight import InFlight
from shepherd_worker.telemetry import RequestMetrics

SESSIONS, TENANTS = 1000, 50


class Context:
    def __init__(self, number: int) -> None:
        self._number = number

    def id(self) -> str:
        return f"request-{self._number}"

    async def async_killed_or_stopped(self) -> bool:
        await asyncio.Event().wait()
        return True


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    engine = FakeEngine(EngineConfig(model="", num_kv_blocks=64))
    await engine.start()
    yield engine
    await engine.close()


async def test_of_a_worker(engine: FakeEngine) -> None:
    registry = CollectorRegistry()
    registry.register(EngineCollector(engine.stats, lambda: None))
    intake = Intake(
        engine=engine,
        attributor=Attributor(model("chatml").reader),
        inflight=InFlight(),
        metrics=RequestMetrics(registry),
    )
    handler = create_handler(Role.AGGREGATED, intake)

    async def ask(number: int) -> None:
        request: dict[str, Any] = {
            "token_ids": [number % 500 + 1, 7],
            "stop_conditions": {"max_tokens": 1, "ignore_eos": True},
            "sampling_options": {"temperature": 0.0},
            "agent_context": {"session_id": f"session-{number}"},
            "routing": {"cache_salt": f"tenant-{number % TENANTS}"},
        }
        assert [_ async for _ in handler.generate(request, Context(number))]

    await ask(0)
    before = series(generate_latest(registry).decode())
    for number in range(SESSIONS):
        await ask(number)

    assert series(generate_latest(registry).decode()) == before
    assert registry.get_sample_value("shepherd_worker_requests_total", {"outcome": "ok"}) == 1001


def test_of_the_memory_service(tmp_path: Path) -> None:
    metrics, worker = Metrics(), FakeWorker("w")
    archives, store = SqliteArchives(tmp_path / "tenants"), IndexStore(tmp_path / "index.db")
    consumer = Consumer(
        archives=archives,
        store=store,
        transcripts={worker.stream: SpelledTranscript()},
        metrics=metrics,
        grace_ns=0,
        clocks=Clocks(),
    )
    before = series(metrics.render().decode())
    for number in range(SESSIONS):
        said = [("user", f"question {number}"), ("assistant", "an answer")]
        session, tenant = f"session-{number}", f"tenant-{number % TENANTS}"
        worker.complete(said, session=session, tenant=tenant)
    consumer.apply(worker.frames)
    after = series(metrics.render().decode())
    archives.close()
    store.close()

    assert after == before
    recorded = metrics.registry.get_sample_value("shepherd_memory_turns_recorded_total")
    assert recorded == SESSIONS
