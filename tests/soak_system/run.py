"""Rounds of faults while clients talk, and what must be true after each and in the end."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from openai_client import eventually
from shepherd_cli.small_system import MODEL_NAME
from soak.plan import Fault, Recipe, plan
from soak_system.clients import Clients
from soak_system.oracle import Oracle, told_twice, untold, was_cut_short
from soak_system.plan import RECIPES, SURVIVED, WORKERS
from soak_system.report import Report
from soak_system.scene import Scene, scene

READ_S = 60.0
"""Until streams are read to their ends, once everything runs."""
MAX_FAILURES = 10
KILLING_SHARE = 0.6
"""Of the time; then nobody is killed any more, so that what processes use can be judged."""
_NOT_OURS = "not flat: frontend "
"""Dynamo's frontend takes 60 MB more in one step, minutes after its start; it is reported only."""
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MUST_STAY_0 = {
    "worker": ("shepherd_stream_events_dropped_total",),
    "memory": (
        "shepherd_stream_reader_digest_mismatches_total",
        "shepherd_memory_dead_letters_total",
        "shepherd_memory_poison_frames_total",
    ),
}
"""Losses, by who counts them."""


class Soak:
    """One run; ends early when it has found enough."""

    def __init__(
        self, directory: Path, seed: int, *, round_s: float, faults: int, clients: int
    ) -> None:
        self._directory = directory
        self._random = Random(seed)
        self._round_s, self._faults = round_s, faults
        self._num_clients = clients
        self._oracle = Oracle()
        self._killed_s: list[float] = []
        """When the worker that tells of turns was killed."""
        self.report = Report(seed)

    async def run(self, seconds: float, note: Callable[[Report], None] = lambda _: None) -> Report:
        """Go on for about so long; what is known so far is noted after each round."""
        report = self.report
        async with scene(self._directory) as made:
            began = time.monotonic()
            clients = Clients(made.http, made.urls["gateway"], MODEL_NAME, self._oracle)
            talking = [
                asyncio.create_task(clients.talk(f"client-{n}", f"{report.seed}-{n}"))
                for n in range(self._num_clients)
            ]
            try:
                while time.monotonic() < began + seconds and len(report.failures) < MAX_FAILURES:
                    is_killing = time.monotonic() < began + KILLING_SHARE * seconds
                    await self._round(made, clients, RECIPES if is_killing else SURVIVED)
                    report.seconds = time.monotonic() - began
                    await asyncio.to_thread(note, report)
                clients.is_calm = True
                await self._round(made, clients)
                assert not any(task.done() for task in talking), "a client gave up"
            finally:
                for task in talking:
                    task.cancel()
                await asyncio.gather(*talking, return_exceptions=True)
            await self._judge(made)
        grown = report.resources.grown()
        report.failures += [each for each in grown if not each.startswith(_NOT_OURS)]
        return report

    async def _round(self, made: Scene, clients: Clients, recipes: Sequence[Recipe] = ()) -> None:
        """One round; the last has no faults."""
        number = self._faults if recipes else 0
        planned = plan(self._random, recipes, round_s=self._round_s, faults=number)
        changes = [(fault.at_s, True, fault) for fault in planned]
        changes += [(fault.at_s + fault.for_s, False, fault) for fault in planned]
        changes.sort(key=lambda change: (change[0], not change[1]))
        clients.may_talk.set()
        began = time.monotonic()
        for at_s, begins, fault in [*changes, (self._round_s, False, None)]:
            await asyncio.sleep(max(0.0, began + at_s - time.monotonic()))
            if fault is not None:
                self._change(made, fault, begins=begins)
        ended = time.monotonic()
        await made.healed()
        await self._quiet(made, clients)
        self.report.healed_s.append(time.monotonic() - ended)
        self.report.rounds += 1
        await self._losses(made)
        self._note_resources(made)
        self.report.restarts = made.restarts()
        self.report.clients = clients.counts

    def _change(self, made: Scene, fault: Fault, *, begins: bool) -> None:
        if begins:
            self.report.faults[f"{fault.kind} {fault.target}"] += 1
            made.begin(fault)
            if (fault.kind, fault.target) == ("kill", "decode"):
                self._killed_s.append(time.monotonic())
        else:
            made.finish(fault)

    async def _quiet(self, made: Scene, clients: Clients) -> None:
        """Let everybody finish a sentence, and the memory read what was told."""
        clients.may_talk.clear()

        async def silent() -> bool:
            return clients.num_talking == 0

        await self._within("clients are answered", silent)

        async def read() -> bool:
            streams = {each["stream"]: each for each in await made.streams()}
            everybody = all(f"{worker}/0" in streams for worker in WORKERS)
            return everybody and not await made.backlog() and all(map(_is_read, streams.values()))

        await self._within("streams are read to their ends", read)

    async def _within(self, what: str, condition: Any) -> None:
        try:
            await eventually(condition, timeout_s=READ_S, what=what)
        except AssertionError as late:
            self.report.failures.append(f"{self._when()}: {late}")

    async def _losses(self, made: Scene) -> None:
        """Counters of what must never happen, of the processes that live now."""
        asked = [(name, made.urls[name], _MUST_STAY_0["worker"]) for name in WORKERS]
        asked.append(("memory", made.memory_admin, _MUST_STAY_0["memory"]))
        for name, url, counters in asked:
            values = dict(
                line.rsplit(" ", 1)
                for line in (await made.metrics(url)).splitlines()
                if line.startswith(counters)
            )
            assert len(values) == len(counters), f"{name} counts only {values}"
            self.report.failures += [
                f"{self._when()}: {name}: {counter} is {value}"
                for counter, value in values.items()
                if float(value)
            ]

    def _note_resources(self, made: Scene) -> None:
        resources = self.report.resources
        for name, pid in made.pids().items():
            resources.note(name, pid, **_usage(pid))
        tasks, threads = len(asyncio.all_tasks()), threading.active_count()
        resources.note("supervisor", os.getpid(), tasks=tasks, python_threads=threads)

    async def _judge(self, made: Scene) -> None:
        """What the memory holds in the end, against what was seen."""
        report, oracle = self.report, self._oracle
        held = await made.held(oracle.sessions)
        notices = await made.notices()
        report.turns_seen = sum(turn.answer is not None for turn in oracle.turns.values())
        report.turns_held = len(held)
        report.turns_archived = sum(turn.is_archived for turn in held)
        report.turns_unseen = oracle.unseen(held)
        report.notices = len(notices)
        report.failures += oracle.false(held) + oracle.repeated(held) + oracle.disordered(held)
        report.failures += told_twice(notices) + untold(held, notices)
        missing = oracle.missing(held)
        lost = [turn for turn in missing if not was_cut_short(turn, self._killed_s)]
        report.turns_cut_short = len(missing) - len(lost)
        report.failures += [f"lost: {turn}" for turn in lost]
        if waiting := await made.acknowledge_all():
            report.failures.append(f"the outbox holds {waiting} notices that cannot be taken")

    def _when(self) -> str:
        return f"round {self.report.rounds}"


def _is_read(stream: dict[str, Any]) -> bool:
    return bool(stream["state"] == "live" and stream["received"] == stream["applied"])


def _usage(pid: int) -> dict[str, int]:
    process = Path(f"/proc/{pid}")
    return {
        "rss": int((process / "statm").read_text().split()[1]) * _PAGE_BYTES,
        "fds": len(list((process / "fd").iterdir())),
        "threads": len(list((process / "task").iterdir())),
    }
