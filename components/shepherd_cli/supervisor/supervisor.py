"""Does what `Supervision` decides: starts processes, sees their ends, waits until they are ready.

Every task belongs to `run`; when that ends, however it ends, no process is left.
Event loop of the main thread only: the kernel ends the children with that thread.
"""

from __future__ import annotations

import asyncio
import math
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from shepherd_cli.parts import Part, Role
from shepherd_cli.supervisor.child import Child
from shepherd_cli.supervisor.decisions import (
    Action,
    Kill,
    Member,
    Outcome,
    Policy,
    Spawn,
    State,
    Supervised,
    Supervision,
    Terminate,
)
from shepherd_cli.supervisor.stack_log import StackLog

START_RANKS: Final = {
    Role.BROKER: 0,
    Role.MEMORY: 1,
    Role.WORKER: 1,
    Role.FRONTEND: 1,
    Role.GATEWAY: 2,
}
"""Memory, workers and frontend find one another whenever they come."""
STOP_RANKS: Final = {
    Role.GATEWAY: 0,
    Role.FRONTEND: 1,
    Role.WORKER: 2,
    Role.MEMORY: 3,
    Role.BROKER: 4,
}
"""Who asks ends before who answers, so that nothing that was asked is lost."""
NOT_STARTED: Final = 127
"""Stands for the exit code of a process that could not be started."""
_PROBE_S = 0.1
_LAST_WORDS_S = 1.0
"""How long the output of an ended process may stay open, held by what left its group."""


@dataclass(frozen=True, slots=True)
class Running:
    """A part as it is now."""

    part: Part
    life: Supervised
    pid: int | None


class Supervisor:
    """Keeps parts running; call `run` once."""

    def __init__(
        self,
        parts: Sequence[Part],
        env: Mapping[str, str],
        log: StackLog,
        *,
        answers: Callable[[str], Awaitable[bool]],
        policy: Policy | None = None,
        on_change: Callable[[], None] = lambda: None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`answers` asks a part's `ready_url`; `on_change` is called when a state has changed."""
        self._parts = {part.name: part for part in parts}
        self._env = dict(env)
        self._log = log
        self._answers = answers
        self._on_change = on_change
        self._now_s = monotonic_s
        self._supervision = Supervision(
            (Member(p.name, START_RANKS[p.role], STOP_RANKS[p.role]) for p in parts),
            policy or Policy(),
        )
        self._children: dict[str, Child] = {}
        self._changed = asyncio.Event()
        self._settled = asyncio.Event()
        """Every part is ready, or all are being stopped."""
        self._tasks = asyncio.TaskGroup()

    async def run(self) -> Outcome:
        """Keep everything running until it is stopped, or something cannot be kept running."""
        supervision = self._supervision
        try:
            async with self._tasks:
                self._do(supervision.begin(self._now_s()))
                while supervision.outcome is None:
                    await self._until_due()
                    self._do(supervision.tick(self._now_s()))
        finally:
            for child in self._children.values():
                child.kill()
        assert supervision.outcome is not None
        return supervision.outcome

    async def until_ready(self) -> bool:
        """Wait until every part is ready; False where everything is being stopped instead."""
        await self._settled.wait()
        return self._supervision.stopping is None

    def stop(self, why: str) -> None:
        """End everything in order; called again, at once."""
        hurried = self._supervision.stopping is not None
        self._log.say(f"{why}: ending what is left at once" if hurried else f"{why}: stopping")
        self._do(self._supervision.stop(why, self._now_s()))

    @property
    def stopping(self) -> Outcome | None:
        """Why everything is being stopped; None while it shall run."""
        return self._supervision.stopping

    def running(self) -> list[Running]:
        """Every part as it is now."""
        return [
            Running(self._parts[name], life, child.pid if child else None)
            for name, life in self._supervision.members.items()
            for child in (self._children.get(name),)
        ]

    # ---- What was decided

    def _do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Spawn(name):
                    self._tasks.create_task(self._attend(self._parts[name]), name=name)
                case Terminate(name):
                    self._log.say(f"{name}: asked to end")
                    self._signal(name)
                case Kill(name):
                    self._log.say(f"{name}: killed, for it did not {self._undone(name)}")
                    self._signal(name)
        if self._supervision.all_ready or self._supervision.stopping is not None:
            self._settled.set()
        self._changed.set()
        self._on_change()

    def _signal(self, name: str) -> None:
        """Tell a child what it should have been told by now, once it is there."""
        child, life = self._children.get(name), self._supervision.members[name]
        if child is not None and life.is_killed:
            child.kill()
        elif child is not None and life.state is State.STOPPING:
            child.signal(signal.SIGTERM)

    def _undone(self, name: str) -> str:
        state = self._supervision.members[name].state
        return "become ready in time" if state is State.STARTING else "end in time"

    async def _until_due(self) -> None:
        """Wait until time has to be looked at, or something has happened."""
        self._changed.clear()
        left_s = self._supervision.next_due_s() - self._now_s()
        try:
            async with asyncio.timeout(None if left_s == math.inf else max(0.0, left_s)):
                await self._changed.wait()
        except TimeoutError:
            return

    # ---- One process

    async def _attend(self, part: Part) -> None:
        """A process from its start to its end."""
        name, began_s = part.name, self._now_s()
        try:
            child = await Child.spawn(part.argv, self._env | dict(part.env))
        except OSError as error:
            self._log.say(f"{name}: could not be started: {error}")
            code = NOT_STARTED
        else:
            self._children[name] = child
            self._log.say(f"{name}: started, process {child.pid}")
            self._signal(name)
            code = await self._live(part, child, began_s)
            del self._children[name]
        lasted_s = self._now_s() - began_s
        actions = self._supervision.ended(name, code, self._now_s())
        self._log.say(
            f"{name}: ended with {spelled(code)} after {lasted_s:.1f} s{self._next(name)}"
        )
        self._do(actions)

    async def _live(self, part: Part, child: Child, began_s: float) -> int:
        """The exit code of a process that was read and probed meanwhile."""
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(self._read(part.name, child))
            probing = tasks.create_task(self._probe(part, began_s))
            try:
                return await child.wait()
            finally:
                child.kill()
                await child.wait()
                probing.cancel()
                await asyncio.wait([reading], timeout=_LAST_WORDS_S)
                reading.cancel()
                child.close()

    async def _read(self, name: str, child: Child) -> None:
        async for line in child.lines():
            self._log.write(name, line)

    async def _probe(self, part: Part, began_s: float) -> None:
        while not await self._answers(part.ready_url):  # noqa: ASYNC110 - others tell by HTTP
            await asyncio.sleep(_PROBE_S)
        self._log.say(f"{part.name}: ready after {self._now_s() - began_s:.1f} s")
        self._do(self._supervision.ready(part.name, self._now_s()))

    def _next(self, name: str) -> str:
        life = self._supervision.members[name]
        if life.state is not State.BACKING_OFF:
            return ""
        return f"; starting again in {life.due_s - self._now_s():.1f} s"


def spelled(exit_code: int) -> str:
    """An exit code as a person reads it."""
    if exit_code >= 0:
        return str(exit_code)
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"
