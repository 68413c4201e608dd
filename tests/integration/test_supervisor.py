"""The supervisor with real processes: small programs that become ready, end, hang and crash."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from left_processes import left_of
from openai_client import eventually
from shepherd_cli.parts import Part, Role
from shepherd_cli.supervisor.child import Child
from shepherd_cli.supervisor.decisions import Outcome, Policy
from shepherd_cli.supervisor.lines import text_lines
from shepherd_cli.supervisor.stack_log import StackLog
from shepherd_cli.supervisor.supervisor import Supervisor

SERVES = """
import pathlib, signal, sys, time
def end(*_):
    print("bye", flush=True); sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("hello", flush=True)
pathlib.Path(sys.argv[1]).touch()
while True:
    time.sleep(60)
"""
CRASHES = "print('no such\\x1b model'); raise SystemExit(3)"
POLICY = Policy(max_restarts=2, first_backoff_s=0.1, start_timeout_s=20.0, stop_timeout_s=20.0)


def program(directory: Path, name: str, role: Role, source: str = SERVES) -> Part:
    """A part whose URL is the file that it makes when it is ready."""
    ready = str(directory / f"{name}.ready")
    return Part(name, role, (sys.executable, "-I", "-S", "-c", source, ready), "", ready)


async def is_there(path: str) -> bool:
    return await asyncio.to_thread(Path(path).exists)


@dataclass
class House:
    """A supervisor that runs, and what its log says."""

    supervisor: Supervisor
    written: io.StringIO
    running: asyncio.Task[Outcome]

    def lines(self) -> list[str]:
        return self.written.getvalue().splitlines()

    def pid(self, name: str) -> int:
        (found,) = (each.pid for each in self.supervisor.running() if each.part.name == name)
        assert found is not None
        return found

    async def until(self, condition: Callable[[], bool]) -> None:
        async def holds() -> bool:
            return condition()

        await eventually(holds)


@asynccontextmanager
async def supervised(parts: list[Part], policy: Policy = POLICY) -> AsyncIterator[House]:
    written = io.StringIO()
    with StackLog(text_lines([p.name for p in parts], colour=False), written) as log:
        supervisor = Supervisor(parts, os.environ, log, answers=is_there, policy=policy)
        running = asyncio.create_task(supervisor.run())
        try:
            yield House(supervisor, written, running)
        finally:
            running.cancel()
            await asyncio.wait([running])


async def gone(directory: Path) -> None:
    async def nothing() -> bool:
        return left_of(directory) == []

    await eventually(nothing)


def whole(directory: Path) -> list[Part]:
    return [
        program(directory, "gateway", Role.GATEWAY),
        program(directory, "worker", Role.WORKER),
        program(directory, "memory", Role.MEMORY),
        program(directory, "frontend", Role.FRONTEND),
        program(directory, "broker", Role.BROKER),
    ]


async def test_everything_starts_and_ends_in_order_and_nothing_is_left(tmp_path: Path) -> None:
    async with supervised(whole(tmp_path)) as house:
        assert await house.supervisor.until_ready()
        assert len(left_of(tmp_path)) == 5
        house.supervisor.stop("SIGTERM")
        outcome = await house.running
        await house.until(lambda: len([x for x in house.lines() if "ended with 0" in x]) == 5)

    assert outcome == Outcome("SIGTERM", 0)
    said = [line.partition(" | ")[2] for line in house.lines()]
    started = [line.partition(":")[0] for line in said if ": started" in line]
    ended = [line.partition(":")[0] for line in said if ": ended with 0" in line]
    assert (started[0], started[-1]) == ("broker", "gateway")
    assert ended == ["gateway", "frontend", "worker", "memory", "broker"]
    asked = [said.index(f"{name}: asked to end") for name in ended]
    over = [next(i for i, x in enumerate(said) if x.startswith(f"{n}: ended")) for n in ended]
    assert all(later > before for before, later in zip(over, asked[1:], strict=False))
    assert "gateway  | bye" in house.lines()
    assert left_of(tmp_path) == []


async def test_a_killed_process_is_started_again_and_the_others_are_left_alone(
    tmp_path: Path,
) -> None:
    async with supervised(whole(tmp_path)) as house:
        assert await house.supervisor.until_ready()
        before = {each.part.name: each.pid for each in house.supervisor.running()}
        os.kill(house.pid("worker"), signal.SIGKILL)
        await house.until(lambda: house.written.getvalue().count("worker   | hello") == 2)
        after = {each.part.name: each.pid for each in house.supervisor.running()}
        restarts = {e.part.name: e.life.num_restarts for e in house.supervisor.running()}

    assert restarts == {name: int(name == "worker") for name in before}
    assert after.pop("worker") != before.pop("worker")
    assert after == before
    assert any(
        "worker: ended with SIGKILL after" in line and "starting again in 0.1 s" in line
        for line in house.lines()
    )


async def test_a_crash_loop_stops_everything_and_the_log_has_its_last_lines(
    tmp_path: Path,
) -> None:
    parts = [
        program(tmp_path, "memory", Role.MEMORY),
        program(tmp_path, "worker", Role.WORKER, CRASHES),
        program(tmp_path, "gateway", Role.GATEWAY),
    ]
    async with supervised(parts) as house:
        assert not await house.supervisor.until_ready()
        outcome = await house.running

    assert outcome == Outcome("worker ended with 3, after 2 restarts in 300 s", 3, "worker")
    assert house.written.getvalue().count("no such\x1b model") == 3
    assert "gateway: started" not in house.written.getvalue()
    assert "memory: asked to end" in house.written.getvalue()
    assert left_of(tmp_path) == []


async def test_a_program_that_does_not_exist_is_a_crash_loop_too(tmp_path: Path) -> None:
    part = Part("broker", Role.BROKER, (str(tmp_path / "nothing"),), "", "")
    async with supervised([part], Policy(max_restarts=0)) as house:
        outcome = await house.running

    assert outcome.reason == "broker ended with 127, after 0 restarts in 300 s"
    assert f"broker   | {tmp_path}/nothing: No such file or directory" in house.lines()


async def test_a_frozen_process_is_killed_when_its_time_is_over(tmp_path: Path) -> None:
    policy = Policy(stop_timeout_s=0.2)
    async with supervised(whole(tmp_path), policy) as house:
        assert await house.supervisor.until_ready()
        os.kill(house.pid("worker"), signal.SIGSTOP)
        house.supervisor.stop("SIGTERM")
        assert (await house.running).exit_code == 0

    assert "shepherd | worker: killed, for it did not end in time" in house.lines()
    assert "memory   | bye" in house.lines()
    assert left_of(tmp_path) == []


async def test_asked_twice_everything_ends_at_once(tmp_path: Path) -> None:
    async with supervised(whole(tmp_path)) as house:
        assert await house.supervisor.until_ready()
        os.kill(house.pid("gateway"), signal.SIGSTOP)
        house.supervisor.stop("SIGINT")
        house.supervisor.stop("SIGINT")
        outcome = await house.running

    assert outcome == Outcome("SIGINT", 0)
    assert "bye" not in house.written.getvalue()
    assert left_of(tmp_path) == []


async def test_a_supervisor_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    async with supervised(whole(tmp_path)) as house:
        assert await house.supervisor.until_ready()

    await gone(tmp_path)


async def test_what_a_process_started_ends_with_it(tmp_path: Path) -> None:
    parent = f"import os, time\nif os.fork():\n    os._exit(0)\nos.environ['X'] = {str(tmp_path)!r}\ntime.sleep(60)"
    part = program(tmp_path, "worker", Role.WORKER, parent)
    async with supervised([part], Policy(max_restarts=0)) as house:
        outcome = await house.running

        assert outcome.reason.startswith("worker ended with 0")
        await gone(tmp_path)


async def lines_of(source: str) -> list[str]:
    child = await Child.spawn((sys.executable, "-I", "-S", "-c", source), os.environ)
    found = [line async for line in child.lines()]
    assert await child.wait() == 0
    child.close()
    return found


async def test_lines_come_whole_and_those_without_end_in_pieces() -> None:
    source = (
        "import sys; w = sys.stdout.buffer.write;"
        "w(b'one\\r\\n\\xff\\n\\n'); w(b'x' * 200_000); w(b'\\nlast')"
    )
    found = await lines_of(source)

    assert found[:3] == ["one", "\ufffd", ""]
    assert "".join(found[3:-1]) == "x" * 200_000
    assert max(map(len, found)) <= 1 << 17
    assert found[-1] == "last"


@pytest.mark.parametrize("freeze", [False, True], ids=["running", "frozen"])
def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path, *, freeze: bool) -> None:
    ready = tmp_path / "child.ready"
    source = f"""
import asyncio, os, sys
from shepherd_cli.supervisor.child import Child
async def main():
    child = await Child.spawn((sys.executable, "-I", "-S", "-c", {SERVES!r}, {str(ready)!r}), os.environ)
    print(child.pid, flush=True)
    await child.wait()
asyncio.run(main())
"""
    supervisor = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    pid = int(supervisor.stdout.readline())
    _wait(ready.exists)
    if freeze:
        os.kill(pid, signal.SIGSTOP)

    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()

    _wait(lambda: left_of(tmp_path) == [])


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
