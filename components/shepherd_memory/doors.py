"""Everything by which callers come in and news goes out, put together from the options.

    public port     api.app, MCP            tenants
    admin port      api.admin               the operator
    webhooks, event stream                  whoever wants to be told

Knows the options and what the doors are made of; what is behind them is
`Means`.  Every task belongs to the group that is handed over.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial

import aiohttp
from starlette.types import ASGIApp

from shepherd_auth.audit import AuditLog
from shepherd_auth.identity import LOCAL_TENANT
from shepherd_auth.rate_limit import RateLimiter
from shepherd_http.server import listen, serve_http
from shepherd_memory.administration import Administration
from shepherd_memory.api.access import Gate
from shepherd_memory.api.admin import admin_app
from shepherd_memory.api.app import Status, public_app
from shepherd_memory.background import whenever_it_rings
from shepherd_memory.chat_model import OpenAiEndpoint
from shepherd_memory.config import MemoryConfig
from shepherd_memory.delivery import Delivery, deliver_every_tenants
from shepherd_memory.errors import UnknownItemError
from shepherd_memory.extraction import Extraction
from shepherd_memory.memory import Means, Memory
from shepherd_memory.summaries import Summaries
from shepherd_memory.ui.app import ui_app
from shepherd_memory.webhook import Outwards, WebhookSink
from shepherd_telemetry.http import TracedHttp


@dataclass(frozen=True, slots=True)
class Listeners:
    """Sockets that are bound before anything else is started."""

    public: socket.socket
    admin: socket.socket | None


@asynccontextmanager
async def bound(config: MemoryConfig) -> AsyncIterator[Listeners]:
    """The sockets that the options ask for.

    Raises:
        OSError: an address is taken or is not ours.
    """
    async with AsyncExitStack() as opened:
        public = opened.enter_context(closing(listen(config.http_host, config.http_port)))
        admin = None
        if config.admin_port is not None:
            admin = opened.enter_context(closing(listen(config.admin_host, config.admin_port)))
        yield Listeners(public, admin)


def name_of_archive(config: MemoryConfig) -> Callable[[str], str]:
    """From a tenant to the name under which the workers' events, and so its archive, go."""
    salts = config.salts()
    if salts is not None:
        return salts.stream_name_of

    def local_only(tenant: str) -> str:
        if tenant != LOCAL_TENANT:
            raise UnknownItemError("tenant", tenant)
        return tenant

    return local_only


@asynccontextmanager
async def opened(
    config: MemoryConfig, listeners: Listeners, means: Means, status: Status
) -> AsyncIterator[asyncio.TaskGroup]:
    """Serve the doors until cancelled; the block adds its own tasks to the group and ends."""
    named = name_of_archive(config)
    async with AsyncExitStack() as stack:
        audit = config.audit()
        if isinstance(audit, AuditLog):
            stack.callback(audit.close)
        gate = Gate(
            authenticator=config.authenticator(
                now_unix_s=time.time, on_reload=means.metrics.reloads.read_again
            ),
            limiter=RateLimiter(config.rate_limit_per_s, config.rate_limit_burst),
            audit=audit,
            metrics=means.metrics,
            memory_of=lambda tenant: Memory(named(tenant), means),
            monotonic_s=time.monotonic,
            now_unix_s=time.time,
        )
        public = TracedHttp(await _public(gate, status, stack), means.spans)
        work = await _background(config, means, named, stack)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        ring_out = means.bell.close
        tasks.create_task(serve_http(public, listeners.public, ring_out), name="http")
        if listeners.admin is not None:
            operator = admin_app(gate, status, Administration(config, means, named))
            tasks.create_task(serve_http(operator, listeners.admin, ring_out), name="admin")
        for name, catch_up in work:
            tasks.create_task(
                whenever_it_rings(
                    partial(_unless_another_does, means, catch_up),
                    name=name,
                    bell=means.bell,
                    metrics=means.metrics,
                ),
                name=name,
            )
        yield tasks


async def _unless_another_does(means: Means, catch_up: Callable[[], Awaitable[None]]) -> None:
    """Of several replicas, the one that follows the streams tells the sinks."""
    if means.follows_streams():
        await catch_up()


async def _public(gate: Gate, status: Status, stack: AsyncExitStack) -> ASGIApp:
    app = public_app(gate, status)
    app.mount("/ui", ui_app(gate))
    try:
        from shepherd_memory.api.mcp_door import add_mcp  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        return app
    await stack.enter_async_context(add_mcp(app, gate).running())
    return app


async def _background(
    config: MemoryConfig, means: Means, named: Callable[[str], str], stack: AsyncExitStack
) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
    """What is to be done whenever turns were archived; what it needs is open as long as the stack."""
    work: list[tuple[str, Callable[[], Awaitable[None]]]] = []
    if webhooks := config.webhooks():
        allowed = frozenset(host.lower() for host in config.webhook_allow_hosts)
        outwards = await stack.enter_async_context(Outwards(allowed))
        for webhook in webhooks:
            sink = WebhookSink(webhook, outwards, time.time)
            work.append(("webhook", Delivery(named(webhook.tenant), sink, means).catch_up))
    if config.notice_events:
        from shepherd_memory.notice_events import publishing  # noqa: PLC0415 - only if asked

        events = stack.enter_context(publishing(config.notice_events))
        work.append(("events", partial(deliver_every_tenants, events, means)))
    if config.extract_url:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        model = OpenAiEndpoint(
            session, config.extract_url, config.extract_model, config.extract_key()
        )
        work.append(("extraction", Extraction(model, means).catch_up))
        if config.summarise_turns:
            summaries = Summaries(model, means, num_turns=config.summarise_turns)
            work.append(("summaries", summaries.catch_up))
    return work
