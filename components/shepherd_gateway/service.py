"""The gateway's parts, put together from its options.

Draining: cancelled, the process says that it is not healthy, takes no more
connections, lets running answers end for `drain_timeout_s`, and then cuts them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, closing

from shepherd_auth.rate_limit import RateLimiter
from shepherd_gateway.access import Gate
from shepherd_gateway.app import Gateway, Limits
from shepherd_gateway.chat import Chat
from shepherd_gateway.config import GatewayConfig
from shepherd_gateway.health import Health
from shepherd_gateway.memory import HttpMemory
from shepherd_gateway.metrics import Metrics
from shepherd_gateway.preparation import Preparation
from shepherd_gateway.upstream import Upstream
from shepherd_http.server import listen, serve_http, url_of
from shepherd_telemetry.http import TracedHttp
from shepherd_telemetry.process_metrics import ProcessMetrics
from shepherd_telemetry.spans import NO_SPANS, Spans


async def serve(
    config: GatewayConfig,
    *,
    spans: Spans = NO_SPANS,
    on_ready: Callable[[str], None] = lambda _: None,
) -> None:
    """Run until cancelled; `on_ready` is told the URL as soon as requests are accepted.

    Raises:
        OSError: an address cannot be used.
    """
    metrics = Metrics()
    async with AsyncExitStack() as opened:
        public = opened.enter_context(closing(listen(config.http_host, config.http_port)))
        admin = None
        if config.admin_port is not None:
            admin = opened.enter_context(closing(listen(config.admin_host, config.admin_port)))
        process = await opened.enter_async_context(ProcessMetrics(metrics.registry, "gateway"))
        upstream = await opened.enter_async_context(
            Upstream(
                config.upstream,
                timeout_s=config.upstream_timeout_s,
                on_retry=metrics.upstream_retries.inc,
                spans=spans,
            ).opened()
        )
        memory = await _memory(config, opened)
        preparation = Preparation(
            memory, policy=config.policy, tool_names=config.memory_tools, metrics=metrics
        )
        opened.push_async_callback(preparation.close)
        health = Health(upstream, memory)
        gateway = Gateway(
            chat=Chat(
                upstream,
                memory,
                preparation,
                metrics=metrics,
                max_rounds=config.max_tool_rounds,
                spans=spans,
            ),
            upstream=upstream,
            gate=_gate(config, metrics),
            limits=Limits(config.max_body_mb << 20, config.max_messages, config.max_concurrent),
            metrics=metrics,
            health=health,
        )

        def drain() -> None:
            process.ready.set(0)
            health.drain()

        tasks = await opened.enter_async_context(asyncio.TaskGroup())
        drain_s = config.drain_timeout_s
        tasks.create_task(
            serve_http(TracedHttp(gateway.app(), spans), public, drain, closing_s=drain_s),
            name="http",
        )
        if admin is not None:
            tasks.create_task(
                serve_http(gateway.admin_app(), admin, lambda: None, closing_s=drain_s),
                name="admin",
            )
        process.ready.set(1)
        on_ready(url_of(public))


async def _memory(config: GatewayConfig, opened: AsyncExitStack) -> HttpMemory | None:
    if not config.has_memory:
        return None
    memory = HttpMemory(
        config.memory,
        key=config.memory_key,
        names_tenants=config.has_credentials,
        timeout_s=config.memory_timeout_s,
    )
    return await opened.enter_async_context(memory.opened())


def _gate(config: GatewayConfig, metrics: Metrics) -> Gate:
    return Gate(
        authenticator=config.authenticator(
            now_unix_s=time.time, on_reload=metrics.reloads.read_again
        ),
        limiter=RateLimiter(config.rate_limit_per_s, config.rate_limit_burst),
        salts=config.salts(),
        metrics=metrics,
        monotonic_s=time.monotonic,
    )
