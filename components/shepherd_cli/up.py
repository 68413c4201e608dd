"""`shepherd up`: the whole system on this machine, kept running until somebody stops it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import aiohttp

from shepherd_cli.parts import Role
from shepherd_cli.probing import answers, offers
from shepherd_cli.stack import free_port
from shepherd_cli.supervisor.decisions import Outcome
from shepherd_cli.supervisor.forwarder import Forwarder
from shepherd_cli.supervisor.isolation import handed_over, start_anew
from shepherd_cli.supervisor.lines import json_lines, text_lines
from shepherd_cli.supervisor.log_files import LogFiles
from shepherd_cli.supervisor.stack_log import StackLog
from shepherd_cli.supervisor.status import FILE_NAME, ProcessStatus, StackStatus
from shepherd_cli.supervisor.supervisor import Supervisor
from shepherd_cli.system import System, design
from shepherd_cli.up_options import UpOptions, load_options
from shepherd_config import OptionError

UNUSABLE: Final = 3
_STATUS_S: Final = 0.1
"""Changes within so long are told together."""


def run_up(argv: Sequence[str]) -> int:
    """Run until stopped; the exit code is 0, or says what could not be kept running.

    2 is a wrong option, 3 a directory, port or namespace that cannot be used; of a process
    that could not be kept running, it is its own where that is 2, 3 or 4, else 1.
    """
    try:
        resolved = load_options(argv)
    except OptionError as error:
        return _end(str(error), error.exit_code)
    if resolved.check:
        sys.stdout.write(resolved.describe() + "\n")
        return 0
    options = resolved.config
    try:
        options.run_dir.mkdir(parents=True, exist_ok=True)
        listeners = handed_over(os.environ)
        if options.isolate and listeners is None:
            ports = design(options, os.environ, free_port).ports
            start_anew(ports, ("shepherd_cli", "up", *argv))
        with _only_one(options.run_dir):
            shown = [listener.getsockname()[1] for listener in listeners or ()]
            system = design(options, os.environ, free_port, shown)
            outcome, last_lines = asyncio.run(_Up(options, system, listeners or ()).run())
    except OSError as error:
        return _end(str(error), UNUSABLE)
    if outcome.culprit is None:
        return outcome.exit_code
    said = "".join(f"\n    {line}" for line in last_lines)
    return _end(f"{outcome.reason}; its last lines:{said}", outcome.exit_code)


class _Up:
    """One run of the system."""

    def __init__(
        self, options: UpOptions, system: System, listeners: Sequence[socket.socket]
    ) -> None:
        self._options = options
        self._system = system
        self._listeners = listeners
        self._started_unix_s = time.time()
        self._changed = asyncio.Event()

    async def run(self) -> tuple[Outcome, list[str]]:
        """Why it stopped, and the last lines of the process whose fault it was."""
        async with AsyncExitStack() as opened:
            log = opened.enter_context(_log(self._options, self._system))
            http = await opened.enter_async_context(aiohttp.ClientSession())
            await opened.enter_async_context(Forwarder(self._listeners))
            supervisor = Supervisor(
                self._system.parts,
                self._system.env,
                log,
                answers=partial(answers, http),
                policy=self._options.policy,
                on_change=self._changed.set,
            )
            opened.enter_context(_stopped_by_signals(supervisor))
            async with asyncio.TaskGroup() as tasks:
                telling = tasks.create_task(self._tell(supervisor))
                welcoming = tasks.create_task(self._welcome(supervisor, http))
                outcome = await supervisor.run()
                telling.cancel()
                welcoming.cancel()
            log.say(f"everything has ended: {outcome.reason}")
            await self._write_status(supervisor)
            return outcome, log.last(outcome.culprit) if outcome.culprit else []

    async def _tell(self, supervisor: Supervisor) -> None:
        """Keep the status file as things are."""
        while True:
            self._changed.clear()
            await self._write_status(supervisor)
            await asyncio.sleep(_STATUS_S)
            await self._changed.wait()

    async def _write_status(self, supervisor: Supervisor) -> None:
        status = self._status(supervisor)
        await asyncio.to_thread(status.write, self._options.run_dir / FILE_NAME)

    def _status(self, supervisor: Supervisor) -> StackStatus:
        stopping = supervisor.stopping
        return StackStatus(
            pid=os.getpid(),
            started_unix_s=self._started_unix_s,
            stopping=stopping.reason if stopping else "",
            processes=tuple(
                ProcessStatus(
                    name=each.part.name,
                    role=each.part.role.value,
                    state=each.life.state.value,
                    pid=each.pid,
                    restarts=each.life.num_restarts,
                    last_exit_code=each.life.last_exit_code,
                    url=each.part.url,
                    metrics_url=each.part.metrics_url,
                )
                for each in supervisor.running()
            ),
        )

    async def _welcome(self, supervisor: Supervisor, http: aiohttp.ClientSession) -> None:
        """Tell where everything is, once a model can be asked."""
        if not await supervisor.until_ready():
            return
        model = self._options.served_model_name
        while not await offers(http, self._system.frontend.url, model):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(_STATUS_S)
        has_page = await answers(http, self._system.memory.url + "/ui")
        sys.stderr.write(_welcome_text(self._options, self._system, has_page=has_page) + "\n")
        sys.stderr.flush()


@contextmanager
def _only_one(run_dir: Path) -> Iterator[None]:
    """Two systems in one directory would find one another's workers.

    Raises:
        OSError: there is one already, or the directory cannot be used.
    """
    with (run_dir / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(
                f"{run_dir} is in use by another `shepherd up`: give --build-dir"
            ) from None
        yield


def _log(options: UpOptions, system: System) -> StackLog:
    names = [part.name for part in system.parts]
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    is_json = options.log_format == "json"
    show = json_lines(time.time) if is_json else text_lines(names, colour=colour)
    files = None
    if options.log_dir:
        directory = Path(options.log_dir).expanduser()
        max_bytes = round(options.log_max_mb * 1e6)
        files = LogFiles(directory, max_bytes=max_bytes, keep=options.log_keep)
    return StackLog(show, sys.stdout, files)


@contextmanager
def _stopped_by_signals(supervisor: Supervisor) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        stop: Callable[[], None] = partial(supervisor.stop, number.name)
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _welcome_text(options: UpOptions, system: System, *, has_page: bool) -> str:
    gateway, frontend, memory = system.gateway.url, system.frontend.url, system.memory.url
    model = options.served_model_name
    workers = system.of(Role.WORKER)
    rows = [f"OpenAI API   {gateway}/v1     model {model}"]
    rows.append(f"frontend     {frontend}/v1     Dynamo's own: no NOTICE, no recall")
    if has_page:
        rows.append(f"memory page  {memory}/ui")
    rows.append(f"memory       {memory}/v1/sessions")
    rows += [f"{worker.name:<12} {worker.url}/health  /metrics" for worker in workers]
    if options.isolate:
        inside = f"nsenter -t {os.getpid()} --user --net --preserve-credentials"
        rows.append(f"isolated     streams and other commands: {inside} shepherd kv tail")
    shown = "\n".join(rows)
    urls = " ".join(f"--worker {worker.url}" for worker in workers)
    return f"""\
{shown}

Talk:
  shepherd chat --url {gateway} --memory {memory} {urls}

Watch:
  shepherd top --build-dir {options.build_dir}

Try:
  curl -s {gateway}/v1/chat/completions -H 'content-type: application/json' \\
    -H 'x-dynamo-session-id: me' -d '{{"model": "{model}", "temperature": 0,
    "messages": [{{"role": "user", "content": "Why is the sky blue?"}}]}}'

Ctrl-C stops everything."""


def _end(message: str, exit_code: int) -> int:
    sys.stderr.write(f"shepherd up: {message}\n")
    return exit_code
