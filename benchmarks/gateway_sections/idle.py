"""What 10,000 idle clients cost the gateway, and whether somebody else is still answered in time.

Each has asked once over a connection that it keeps.  Where this machine allows fewer open
files there are fewer clients, which the rows say.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.figure import Figure, compare
from benchmarks.gateway_system import System, ask, running
from shepherd_cli.stack import Service

CLIENTS = 10_000
SPARE_FILES = 1_000
QUESTIONS = 30
QUESTION = [{"role": "user", "content": "Say something, whatever it is."}]
GOAL_SLOWER = 0.5
"""A first token may take twice as long as without them."""


def figures(rounds: int) -> list[Figure]:
    """See the module."""
    return asyncio.run(_figures(rounds))


async def _figures(rounds: int) -> list[Figure]:
    _, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))
    clients = min(CLIENTS, allowed - SPARE_FILES)
    ours: list[float] = []
    theirs: list[float] = []
    crowded: list[float] = []
    alone: list[float] = []
    for number in range(rounds):
        async with running("--engine", "fake") as system:
            for service, sizes in ((system.gateway, ours), (system.frontend, theirs)):
                await _asked(system, service, f"warm-{number}")
                before = _rss_bytes(service)
                if service is system.gateway:
                    alone.append(await _asked(system, service, f"alone-{number}"))
                async with _idle(service, clients):
                    sizes.append((_rss_bytes(service) - before) / clients / 1024)
                    if service is system.gateway:
                        crowded.append(await _asked(system, service, f"crowded-{number}"))
    return [
        compare(
            *(f"memory of an idle client, {clients}", ours, [max(each, 0.1) for each in theirs]),
            peer_name="Dynamo's frontend",
            unit="KiB",
            less_is_better=True,
        ),
        compare(
            *(f"TTFT beside {clients} idle clients", crowded, alone),
            peer_name="alone",
            unit="ms",
            less_is_better=True,
            goal=GOAL_SLOWER,
        ),
    ]


async def _asked(system: System, service: Service, name: str) -> float:
    """Milliseconds to the first token, the median of some questions in turn."""
    times = [
        (await ask(system, service, QUESTION, f"{name}-{number}", max_tokens=2)).ttft_s
        for number in range(QUESTIONS)
    ]
    return statistics.median(times) * 1000


@asynccontextmanager
async def _idle(service: Service, clients: int) -> AsyncIterator[None]:
    url = urlsplit(service.url)
    request = f"GET /live HTTP/1.1\r\nhost: {url.netloc}\r\n\r\n".encode()
    connected: list[socket.socket] = []

    def connect() -> None:
        for _ in range(clients):
            client = socket.create_connection((url.hostname, url.port))
            connected.append(client)
            client.sendall(request)
            if not client.recv(4096).startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"{service.url} refuses the client number {len(connected)}")

    try:
        await asyncio.to_thread(connect)
        yield
    finally:
        for client in connected:
            client.close()


def _rss_bytes(service: Service) -> int:
    pages = Path(f"/proc/{service.process.pid}/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()
