"""One worker from start to end.

    join Dynamo -> start the engine -> publish the stream -> register -> serve -> ready
    SIGTERM -> not ready -> unregister -> grace -> drain -> cut what is left -> close

A second signal ends the drain at once.  Everything that runs is owned by the
one TaskGroup in `serve`.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Gauge

from shepherd_events.tokenizer_assets import TokenizerAssets, TokenizerNotFoundError
from shepherd_events.transcript import TranscriptReader
from shepherd_telemetry.process_metrics import ProcessMetrics
from shepherd_telemetry.spans import Spans
from shepherd_worker.attribution import Attributor
from shepherd_worker.config import Role, WorkerConfig
from shepherd_worker.engine import create_encoder, create_engine
from shepherd_worker.engine.protocol import Engine, EngineInfo
from shepherd_worker.engine.telemetry import EngineTelemetry
from shepherd_worker.engine_metrics import EngineCollector
from shepherd_worker.errors import EngineDeadError, UnusableInputError
from shepherd_worker.event_bridge import EventBridge
from shepherd_worker.handlers import Intake, create_handler
from shepherd_worker.handlers.images import ImagePlaces, ImageSource
from shepherd_worker.handlers.remote_images import RemoteImages
from shepherd_worker.health import Health, Phase, as_json
from shepherd_worker.inflight import InFlight
from shepherd_worker.media.fetch import MediaFetcher
from shepherd_worker.media.loading import ImageLoader
from shepherd_worker.registration import Registration
from shepherd_worker.signals import StopSignals
from shepherd_worker.stream import WorkerStream
from shepherd_worker.stream_endpoint import StreamEndpoint
from shepherd_worker.telemetry import (
    ImageMetrics,
    PhaseMetrics,
    RequestMetrics,
    exposition,
    load_seconds,
)
from shepherd_worker.tracing import RequestTracing

log = logging.getLogger(__name__)

LOAD_INTERVAL_S = 0.5
"""How often the router hears how full the worker is, and the engine's pulse is felt."""
CUT_TIMEOUT_S = 5.0
"""How long requests may take to end after the drain deadline."""


async def run(config: WorkerConfig) -> None:
    """Serve until a signal comes.

    Raises:
        StartError: the worker could not start.
        EngineDeadError: the engine failed while serving.
    """
    async with AsyncExitStack() as cleanup:
        stop = cleanup.enter_context(StopSignals(asyncio.get_running_loop()))
        spans = config.spans("worker")
        cleanup.push_async_callback(asyncio.to_thread, spans.close)
        engine = _create_engine(config, spans)
        cleanup.push_async_callback(engine.close)
        registration = Registration(
            config, RequestTracing(spans, role=config.role, model=config.model_name)
        )
        cleanup.callback(registration.shutdown)
        registry = CollectorRegistry()
        process = await cleanup.enter_async_context(ProcessMetrics(registry, "worker"))
        with load_seconds(registry).time():
            info = await stop.unless_stopped(engine.start())
        if info is None:
            return
        images = await _open_images(config, engine, registration, registry, cleanup)
        worker = Worker(config, engine, info, registration, images, registry, process.ready)
        cleanup.push_async_callback(worker.close)
        await worker.serve(stop)


class Worker:
    """A started engine, wired to Dynamo and to its stream."""

    def __init__(
        self,
        config: WorkerConfig,
        engine: Engine,
        info: EngineInfo,
        registration: Registration,
        images: ImageSource | None,
        registry: CollectorRegistry,
        ready: Gauge,
    ) -> None:
        self._config = config
        self._phases = PhaseMetrics(registry, ready)
        self._engine = engine
        self._info = info
        self._registration = registration
        self._assets = _tokenizer_assets(config.tokenizer or info.model_directory)
        self._stream = WorkerStream.open(
            config, info, registration.instance_id, registration.salts.get
        )
        self._health = Health(config.role, config.model_name, info, registration.instance_id)
        self._inflight = InFlight()
        self._registry = registry
        self._registry.register(
            EngineCollector(
                engine.stats,
                self._stream.counters,
                self._stream.also_counters,
                engine.metrics,
                self._stream.backlog,
            )
        )
        self._handler = create_handler(
            config.role,
            Intake(
                engine=engine,
                attributor=Attributor(
                    TranscriptReader(self._assets),
                    system_duration_s=config.system_prompt_retention_s,
                ),
                inflight=self._inflight,
                metrics=RequestMetrics(self._registry),
                images=images,
                places=ImagePlaces(config.media_max_requests),
            ),
        )

    async def serve(self, stop: StopSignals) -> None:
        """Register, be ready, and drain when `stop` says so."""
        await self._registration.register(self._info)
        self._registration.add_route("shepherd/health", self._report)
        self._registration.add_metrics(lambda: exposition(self._registry))
        async with asyncio.TaskGroup() as tasks:
            reading = [
                tasks.create_task(self._bridge(rank).run(self._engine, rank))
                for rank in range(self._info.num_ranks)
            ]
            pulse = tasks.create_task(self._pulse())
            serving = tasks.create_task(
                self._registration.serve(
                    self._handler,
                    StreamEndpoint(self._stream.descriptors, self._assets).answer,
                )
            )
            await self._registration.visible()
            self._become(Phase.READY)
            await stop.first()
            await self._drain(stop)
            self._registration.shutdown()
            await serving
            pulse.cancel()
            await self._engine.close()
            await asyncio.wait(reading)

    async def close(self) -> None:
        """Say goodbye on the stream; safe after a failure at any point."""
        await asyncio.to_thread(self._stream.close)

    def _bridge(self, rank: int) -> EventBridge:
        """What takes one rank's events to its streams and to its part of the router."""
        streams, routers = self._stream.ranks, self._registration.routers
        return EventBridge(
            *(streams[rank].publishers if streams else ()),
            router=routers[rank] if routers else None,
            completes_turns=self._config.role is not Role.PREFILL,
        )

    async def _drain(self, stop: StopSignals) -> None:
        self._become(Phase.DRAINING)
        await self._registration.unregister()
        if not await stop.unless_stopped(self._emptied(), after=2):
            log.warning("cutting %d requests that did not end in time", len(self._inflight))
            self._inflight.cut()
            await self._inflight.drained(CUT_TIMEOUT_S)

    async def _emptied(self) -> bool:
        """Whether all requests ended, and all handoffs were fetched, in the time they have."""
        await asyncio.sleep(self._config.drain_grace_s)
        try:
            async with asyncio.timeout(self._config.drain_timeout_s):
                await self._inflight.empty()
                await self._engine.drain()
        except TimeoutError:
            return False
        return True

    async def _pulse(self) -> None:
        while self._engine.is_healthy():
            self._registration.publish_load(self._engine.stats())
            await asyncio.sleep(LOAD_INTERVAL_S)
        self._become(Phase.FAILED)
        raise EngineDeadError("the engine stopped: see the log above for the reason")

    def _become(self, phase: Phase) -> None:
        self._health.phase = phase
        self._registration.set_ready(ready=phase is Phase.READY)
        self._phases.become(phase)
        log.info("worker %s is %s", self._config.role, phase)

    async def _report(self, body: dict[str, Any]) -> dict[str, Any]:
        del body
        report = self._health.report(
            self._engine.stats(),
            healthy=self._engine.is_healthy(),
            in_progress=len(self._inflight),
            streams=self._stream.positions(),
        )
        return as_json(report)


def _create_engine(config: WorkerConfig, spans: Spans) -> Engine:
    if config.role is Role.ENCODE:
        return create_encoder(config.chosen_engine, config.engine_config())
    return create_engine(config.chosen_engine, config.engine_config(), EngineTelemetry(spans))


async def _open_images(
    config: WorkerConfig,
    engine: Engine,
    registration: Registration,
    registry: CollectorRegistry,
    cleanup: AsyncExitStack,
) -> ImageSource | None:
    """Where a started engine's images come from; None for a model that reads text only."""
    processor = engine.image_processor()
    if processor is None:
        return None
    policy = config.media_policy()
    fetcher = await cleanup.enter_async_context(MediaFetcher(policy))
    loader = ImageLoader(fetcher, policy, processor)
    cleanup.callback(loader.close)
    if not config.encode_endpoint or config.role is Role.ENCODE:
        return loader
    workers = await registration.encode_workers(config.encode_endpoint)
    return RemoteImages(workers, engine, loader, ImageMetrics(registry))


def _tokenizer_assets(directory: str) -> TokenizerAssets:
    try:
        return TokenizerAssets.from_directory(Path(directory))
    except TokenizerNotFoundError as error:
        raise UnusableInputError(f"--tokenizer: {error}") from error
