"""The worker on Dynamo: endpoints, model card, router feed, health.

Beside it only `dynamo_parsers.py` imports dynamo.  Everything else speaks of
handlers, roles and errors; this file translates them, each in one table.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from dynamo.llm import (
    KvEventPublisher,
    ModelInput,
    ModelRuntimeConfig,
    ModelType,
    WorkerMetricsPublisher,
    WorkerType,
    register_model,
)
from dynamo.llm.exceptions import EngineShutdown, HttpError, InvalidArgument
from dynamo.runtime import Client, Context, DistributedRuntime

from shepherd_events.discovery import KV_STREAM_ENDPOINT
from shepherd_events.events import BlocksRemoved, BlocksStored, Tier
from shepherd_worker.config import Role, WorkerConfig
from shepherd_worker.engine.protocol import EngineInfo, EngineStats
from shepherd_worker.engine.trtllm.model import holds_engines
from shepherd_worker.errors import (
    DrainDeadlineError,
    EncodeWorkerError,
    EngineDeadError,
    InvalidRequestError,
    OverloadedError,
    UnreachableError,
    UnusableInputError,
    WorkerError,
)
from shepherd_worker.handlers import Handler
from shepherd_worker.salts import Salts
from shepherd_worker.tracing import RequestTracing
from shepherd_worker.wire import is_canary

log = logging.getLogger(__name__)

Answer = Callable[[dict[str, Any]], AsyncIterator[dict[str, Any]]]
Route = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

_TALKING = ModelType.Chat | ModelType.Completions
_ROLES = {
    Role.AGGREGATED: (WorkerType.Aggregated, _TALKING, []),
    Role.PREFILL: (WorkerType.Prefill, ModelType.Prefill, [[WorkerType.Decode]]),
    Role.DECODE: (WorkerType.Decode, _TALKING, [[WorkerType.Prefill]]),
    Role.ENCODE: (
        WorkerType.Encode,
        ModelType.Empty,
        [[WorkerType.Prefill, WorkerType.Decode], [WorkerType.Aggregated]],
    ),
}
"""Role to worker type, what it serves, and whom it needs beside it."""

REGISTRATION_TIMEOUT_S = 30.0


def to_dynamo_error(error: WorkerError) -> Exception:
    """What the frontend must see so that the client gets the right status."""
    match error:
        case InvalidRequestError():
            return InvalidArgument(str(error))
        case OverloadedError():
            return HttpError(429, str(error))
        case DrainDeadlineError() | EngineDeadError():
            return EngineShutdown(str(error) or "the worker is shutting down")
        case _:
            return RuntimeError(str(error))


class Registration:
    """One worker's presence on Dynamo; event loop only."""

    def __init__(self, config: WorkerConfig, tracing: RequestTracing) -> None:
        self._config = config
        self._tracing = tracing
        _configure_runtime(config)
        loop = asyncio.get_running_loop()
        try:
            self._runtime = DistributedRuntime(
                loop,
                config.discovery_backend,
                config.request_plane,
                event_plane=config.event_plane,
            )
        except Exception as error:
            raise UnreachableError(
                f"--discovery-backend {config.discovery_backend}: Dynamo's runtime does not start: "
                f"{error}"
            ) from error
        namespace, component, endpoint = config.endpoint_path
        self._generate = self._runtime.endpoint(f"{namespace}.{component}.{endpoint}")
        self._kv_stream = self._runtime.endpoint(f"{namespace}.{component}.{KV_STREAM_ENDPOINT}")
        self._load = WorkerMetricsPublisher()
        self._ready = False
        self._own_view: list[Client] = []
        """Kept: Dynamo logs an error per discovery event for a client that was dropped."""
        self.salts = Salts()
        """Of the requests that came."""
        self.routers: list[DynamoRouterFeed] = []
        """By attention-parallel rank; empty where the router is told nothing."""

    @property
    def instance_id(self) -> int:
        """Dynamo's name for this process, unsigned 64-bit."""
        return int(self._generate.connection_id())

    async def register(self, info: EngineInfo) -> None:
        """Publish the model card and open the channels to Dynamo's router.

        Raises:
            UnreachableError: discovery does not take the card.
        """
        config = self._config
        tells_router = config.role in {Role.AGGREGATED, Role.PREFILL}
        runtime_config = ModelRuntimeConfig()
        runtime_config.context_length = info.max_seq_len
        runtime_config.total_kv_blocks = info.num_blocks.get(Tier.DEVICE, 0) // info.num_ranks
        runtime_config.data_parallel_size = info.num_ranks
        runtime_config.max_num_seqs = info.max_batch_size
        runtime_config.max_num_batched_tokens = info.max_num_tokens
        runtime_config.enable_local_indexer = tells_router
        runtime_config.tool_call_parser = config.dyn_tool_call_parser or None
        runtime_config.reasoning_parser = config.dyn_reasoning_parser or None
        worker_type, serves, needs = _ROLES[config.role]
        try:
            await register_model(
                ModelInput.Tokens,
                serves,
                self._generate,
                config.tokenizer if holds_engines(config.model) else config.model,
                config.model_name,
                kv_cache_block_size=info.block_size,
                runtime_config=runtime_config,
                worker_type=worker_type,
                needs=needs,
            )
        except Exception as error:
            # Dynamo's edge: what its runtime raises has no type of its own
            raise UnreachableError(
                f"--discovery-backend {config.discovery_backend}: this worker cannot be "
                f"registered: {error}"
            ) from error
        if tells_router:
            self.routers = [self._router_feed(info, rank) for rank in range(info.num_ranks)]
        await self._load.create_endpoint(self._generate)

    def _router_feed(self, info: EngineInfo, rank: int) -> DynamoRouterFeed:
        publisher = KvEventPublisher(
            self._generate,
            kv_block_size=info.block_size,
            dp_rank=rank,
            enable_local_indexer=True,
        )
        return DynamoRouterFeed(publisher, info.block_size, self.salts)

    async def encode_workers(self, path: str) -> EncodeClient:
        """The workers of the encode role at an endpoint, now and later."""
        client = await self._runtime.endpoint(path.removeprefix("dyn://")).client()
        return EncodeClient(client)

    async def serve(self, handler: Handler, describe: Answer) -> None:
        """Answer requests until `shutdown`; returns when the last one has ended."""
        await asyncio.gather(
            self._generate.serve_endpoint(
                self._at_the_edge(handler),
                graceful_shutdown=True,
                metrics_labels=[("model", self._config.model_name)],
                health_check_payload=_canary() if self._config.health_probe else None,
            ),
            self._kv_stream.serve_endpoint(_with_context(describe)),
        )

    def _at_the_edge(self, handler: Handler) -> Callable[[Any, Context], AsyncIterator[Any]]:
        """The handler as Dynamo calls it: our errors become Dynamo's."""

        async def generate(request: dict[str, Any], context: Context) -> AsyncIterator[Any]:
            self.salts.learn((request.get("routing") or {}).get("cache_salt") or "")
            finished = False
            if is_canary(request) and not self._ready:
                raise EngineShutdown("the worker is not ready")
            try:
                chunks = handler.generate(request, context)
                async for chunk in self._tracing.traced(chunks, request, context.trace_headers()):
                    finished = "finish_reason" in chunk
                    yield chunk
            except WorkerError as error:
                raise to_dynamo_error(error) from error
            if not finished:
                yield {"token_ids": [], "index": 0, "finish_reason": "cancelled"}

        return generate

    async def visible(self) -> None:
        """Wait until discovery shows this worker.

        Kubernetes shows no pod before its readiness probe has succeeded: there nothing is waited
        for, since being ready is what makes the worker visible.

        Raises:
            UnreachableError: it does not within `REGISTRATION_TIMEOUT_S`.
        """
        if self._config.discovery_backend == "kubernetes":
            return
        own = [await endpoint.client() for endpoint in (self._generate, self._kv_stream)]
        self._own_view = own
        try:
            async with asyncio.timeout(REGISTRATION_TIMEOUT_S):
                while not all(  # noqa: ASYNC110  Dynamo has no callback for it
                    self.instance_id in client.instance_ids() for client in own
                ):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise UnreachableError(
                f"discovery ({self._config.discovery_backend}) does not show this worker after "
                f"{REGISTRATION_TIMEOUT_S:g} s"
            ) from None

    def set_ready(self, *, ready: bool) -> None:
        """Decide what `/health` and `/live` of the status server say.

        With `--health-probe` Dynamo decides by its probes alone, so these are refused.
        """
        self._ready = ready
        self._runtime.set_health_status(ready)

    def add_route(self, name: str, route: Route) -> None:
        """Answer `/engine/NAME` on the status server."""
        self._runtime.register_engine_route(name, route)

    def add_metrics(self, exposition: Callable[[], str]) -> None:
        """Show our metrics beside Dynamo's on `/metrics`."""
        self._generate.metrics.register_prometheus_expfmt_callback(exposition)

    def publish_load(self, stats: EngineStats) -> None:
        """Tell the router how full this worker is."""
        used = stats.rank_blocks_referenced or (stats.blocks_referenced,)
        for rank, num_blocks in enumerate(used):
            self._load.publish(dp_rank=rank, kv_used_blocks=num_blocks)

    async def unregister(self) -> None:
        """Leave discovery, so that no new request comes."""
        await asyncio.gather(
            self._generate.unregister_endpoint_instance(),
            self._kv_stream.unregister_endpoint_instance(),
        )

    def shutdown(self) -> None:
        """End `serve`."""
        for router in self.routers:
            router.close()
        self._runtime.shutdown()


class EncodeClient:
    """Workers of the encode role, asked in turn; see `EncodeWorkers`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def encode(self, request: dict[str, Any]) -> dict[str, Any]:
        """See `EncodeWorkers.encode`."""
        if not self._client.instance_ids():
            raise EncodeWorkerError("there is no encode worker")
        try:
            async for chunk in await self._client.round_robin(request, annotated=False):
                return dict(chunk)
        except Exception as error:
            # Dynamo's edge: a lost connection has no type of its own
            raise EncodeWorkerError(f"the encode worker failed: {error}") from error
        raise EncodeWorkerError("the encode worker did not answer")


class DynamoRouterFeed:
    """One rank's block events for Dynamo's KV router, which takes hashes as signed integers.

    After `close` nothing is passed on: the router has forgotten the worker, and the engine may
    still let blocks go.  Event loop only.
    """

    def __init__(self, publisher: KvEventPublisher, block_size: int, salts: Salts) -> None:
        self._publisher = publisher
        self._block_size = block_size
        self._salts = salts
        self._is_open = True

    def stored(self, event: BlocksStored) -> None:
        """See `RouterFeed`."""
        if not self._is_open:
            return
        self._publisher.publish_stored(
            token_ids=event.token_ids.tolist(),
            num_block_tokens=[self._block_size] * len(event.block_hashes),
            block_hashes=[_signed(value) for value in event.block_hashes],
            parent_hash=None if event.parent_hash is None else _signed(event.parent_hash),
            lora_name=event.context.lora_name or None,
            cache_salt=self._salts.get(event.context.cache_salt_id),
        )

    def removed(self, event: BlocksRemoved) -> None:
        """See `RouterFeed`."""
        if self._is_open:
            self._publisher.publish_removed([_signed(value) for value in event.block_hashes])

    def close(self) -> None:
        """Send what is buffered and stop."""
        self._is_open = False
        self._publisher.shutdown()


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _canary() -> dict[str, Any]:
    return {
        "token_ids": [1],
        "stop_conditions": {"max_tokens": 1, "ignore_eos": True},
        "sampling_options": {"temperature": 0.0},
        "_HEALTH_CHECK": True,
    }


def _with_context(answer: Answer) -> Callable[[Any, Any], AsyncIterator[Any]]:
    async def respond(request: dict[str, Any], context: object) -> AsyncIterator[Any]:
        del context
        async for item in answer(request):
            yield item

    return respond


def _configure_runtime(config: WorkerConfig) -> None:
    """Dynamo reads its listeners and its probe from the environment only.

    Raises:
        UnusableInputError: the status server's port is taken; Dynamo would go on without one.
    """
    if config.system_port:
        try:
            socket.create_server((config.host, config.system_port)).close()
        except OSError as error:
            raise UnusableInputError(
                f"--system-port {config.system_port}: cannot listen on {config.host}: {error}"
            ) from error
    os.environ["DYN_TCP_RPC_HOST"] = config.host
    os.environ["DYN_SYSTEM_HOST"] = config.host
    os.environ["DYN_HEALTH_CHECK_ENABLED"] = str(config.health_probe).lower()
    if config.system_port is not None:
        os.environ["DYN_SYSTEM_PORT"] = str(config.system_port)
    log.debug("request plane and status server listen on %s", config.host)
