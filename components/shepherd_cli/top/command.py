"""Reads everything again and again, and shows it."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import aiohttp
from rich.console import Console
from rich.live import Live

from shepherd_cli.kv.terminal import UNREACHABLE, CommandError, write
from shepherd_cli.supervisor.status import ProcessStatus, StackStatus, StatusFileError
from shepherd_cli.top.reading import Reading, Usage
from shepherd_cli.top.rows import Picture, Sight, picture
from shepherd_cli.top.table import tables

_TIMEOUT = aiohttp.ClientTimeout(total=1.5)
"""Who does not answer within so long is away."""
_WIDE = 100
"""Columns where there is no terminal."""


class Watcher:
    """Looks at a system; each look is compared with the one before."""

    def __init__(self, status_file: Path, http: aiohttp.ClientSession) -> None:
        self._status_file = status_file
        self._http = http
        self._before = Sight()

    async def look(self) -> Picture:
        """Read every process once, all at the same time.

        Raises:
            CommandError: nothing was ever started there.
        """
        try:
            status = await asyncio.to_thread(StackStatus.read, self._status_file)
        except StatusFileError as error:
            raise CommandError(UNREACHABLE, str(error)) from error
        readings = await asyncio.gather(*(self._read(each) for each in status.processes))
        now_s = time.monotonic()
        usages = {p.name: Usage.of(p.pid, now_s) for p in status.processes if p.pid is not None}
        before, self._before = (
            self._before,
            Sight(
                {p.name: r for p, r in zip(status.processes, readings, strict=True) if r},
                {name: usage for name, usage in usages.items() if usage},
            ),
        )
        return picture(status, before, self._before, is_kept=status.is_running)

    async def _read(self, process: ProcessStatus) -> Reading | None:
        if not process.metrics_url or process.pid is None:
            return None
        try:
            async with self._http.get(process.metrics_url, timeout=_TIMEOUT) as response:
                response.raise_for_status()
                return Reading.parse(await response.text(), time.monotonic())
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return None


async def run_top(build_dir: Path, *, interval_s: float, once: bool, as_json: bool) -> None:
    """Show everything until interrupted; with `once`, what happened within one interval."""
    async with aiohttp.ClientSession() as http:
        watcher = Watcher(build_dir / "up" / "stack.json", http)
        shown = await watcher.look()
        if once or as_json:
            await asyncio.sleep(interval_s)
            await _print(await watcher.look(), as_json=as_json)
            while not once:
                await asyncio.sleep(interval_s)
                await _print(await watcher.look(), as_json=as_json)
            return
        console = Console()
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(tables(shown, width=console.width), refresh=True)
                await asyncio.sleep(interval_s)
                shown = await watcher.look()


async def _print(shown: Picture, *, as_json: bool) -> None:
    if as_json:
        await write(json.dumps(asdict(shown)) + "\n")
        return
    console = Console(width=None if sys.stdout.isatty() else _WIDE)
    with console.capture() as captured:
        console.print(tables(shown, width=console.width))
    await write(captured.get())
