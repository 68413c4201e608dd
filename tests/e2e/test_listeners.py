"""The running stack listens on loopback; what Dynamo opens to everybody is counted and can be closed."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from pathlib import Path

import pytest

from listeners import listeners
from nats_broker import NatsBroker
from openai_client import MODEL
from shepherd_cli.stack import Service, Stack

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
PAGE = Path(__file__).parents[2] / "docs" / "security.md"
OPENED_BY_DYNAMOS_EVENT_PLANE = {
    "frontend": 2,
    "memory": 0,
    "prefill": 2,
    "decode": 1,
    "gateway": 0,
}


async def whole_system(stack: Stack, model_dir: Path) -> dict[str, Service]:
    model = ("--model", str(model_dir), "--served-model-name", MODEL, "--engine", "fake")
    async with asyncio.TaskGroup() as tasks:
        started = [
            tasks.create_task(stack.frontend()),
            tasks.create_task(stack.memory()),
            tasks.create_task(stack.worker("prefill", *model, "--role", "prefill")),
            tasks.create_task(stack.worker("decode", *model, "--role", "decode")),
        ]
    services = {task.result().process.name: task.result() for task in started}
    gateway = await stack.gateway(services["frontend"], services["memory"])
    return services | {"gateway": gateway}


def beyond_loopback(service: Service) -> set[tuple[str, int]]:
    found = listeners(service.process.pid)
    assert found, "a service that listens on nothing was not looked at"
    return {place for place in found if not ipaddress.ip_address(place[0]).is_loopback}


async def test_a_listener_on_every_interface_is_seen() -> None:
    with socket.create_server(("0.0.0.0", 0)) as open_to_all:
        mine = listeners(os.getpgid(0))

        assert ("0.0.0.0", open_to_all.getsockname()[1]) in mine


async def test_only_dynamos_event_plane_listens_beyond_loopback(
    stack: Stack, model_dir: Path
) -> None:
    services = await whole_system(stack, model_dir)
    seen = {name: len(beyond_loopback(service)) for name, service in services.items()}

    assert seen == OPENED_BY_DYNAMOS_EVENT_PLANE
    written = ", ".join(f"{name} {OPENED_BY_DYNAMOS_EVENT_PLANE[name]}" for name in seen)
    assert f"event plane: {written} sockets" in PAGE.read_text("utf-8")


async def test_with_dynamos_events_over_nats_nothing_listens_beyond_loopback(
    tmp_path: Path, model_dir: Path
) -> None:
    broker = NatsBroker(tmp_path).start()
    async with Stack(tmp_path / "stack") as stack:
        stack.env |= {"DYN_EVENT_PLANE": "nats", "NATS_SERVER": broker.url}
        services = await whole_system(stack, model_dir)
        seen = {name: beyond_loopback(service) for name, service in services.items()}

        assert not any(seen.values()), seen
    broker.kill()
