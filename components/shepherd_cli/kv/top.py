"""`shepherd kv top`: every stream's figures, live."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from shepherd_cli.kv.figures import StreamFigures
from shepherd_cli.kv.sources import Source
from shepherd_cli.kv.terminal import UNREACHABLE, CommandError, write
from shepherd_events.discovery import StreamJoined
from shepherd_events.events import StreamId, Tier
from shepherd_events.follow import FollowedStream, StreamFollower, StreamItem, follow
from shepherd_events.subscription_types import StreamState

_STATE_STYLE = {
    StreamState.LIVE.value: "green",
    StreamState.CATCHING_UP.value: "yellow",
    StreamState.STALE.value: "red",
}
_WIDE = 100
"""Columns of a terminal in which everything has room."""


@dataclass(frozen=True, slots=True)
class Row:
    """One stream's line of the table, and one entry of `--json`."""

    worker: str
    rank: int
    role: str
    state: str
    blocks: dict[str, int]
    """By tier."""
    stored_per_s: float
    removed_per_s: float
    hit_rate: float | None
    turns: int
    lag_s: float | None
    behind: int
    """Frames that exist and were not read."""
    gaps: int
    resets: int
    """Snapshots that had to be taken."""


class Top:
    """The figures of all streams that are followed."""

    def __init__(self, follower: StreamFollower) -> None:
        self._follower = follower
        self._figures: dict[StreamId, StreamFigures] = {}

    async def count(self) -> None:
        """Count what the streams say until cancelled."""
        async for change in self._follower:
            if isinstance(change, StreamJoined):
                self._figures.setdefault(change.descriptor.address.stream, StreamFigures())
            elif isinstance(change, StreamItem):
                followed = self._follower.streams.get(change.stream)
                self._figures[change.stream].add(
                    change.item,
                    now_unix_ns=time.time_ns(),
                    is_live=followed is not None and followed.state is StreamState.LIVE,
                )
            else:
                self._figures.pop(change.stream, None)

    def rows(self) -> list[Row]:
        """The streams that exist now, by name."""
        streams = sorted(self._follower.streams.items(), key=lambda entry: str(entry[0]))
        return [self._row(followed) for _, followed in streams]

    @property
    def is_settled(self) -> bool:
        """Whether there are streams, and none of them is on its way."""
        streams = self._follower.streams.values()
        live = all(followed.state is StreamState.LIVE for followed in streams)
        return bool(streams) and live

    def _row(self, followed: FollowedStream) -> Row:
        figures = self._figures.get(followed.stream, StreamFigures())
        stored, removed = figures.rates(time.time_ns())
        tiers = followed.residents.digest() if followed.residents is not None else ()
        counters = followed.counters
        return Row(
            worker=followed.stream.worker_id,
            rank=followed.stream.dp_rank,
            role=followed.descriptor.role,
            state="departed" if figures.departed else followed.state.value,
            blocks={state.tier.name.lower(): state.blocks for state in tiers},
            stored_per_s=stored,
            removed_per_s=removed,
            hit_rate=figures.hit_rate,
            turns=figures.turns,
            lag_s=figures.lag_s,
            behind=followed.num_behind,
            gaps=counters.gaps,
            resets=counters.snapshots,
        )


async def run_top(
    source: Source, urls: Sequence[str], *, interval_s: float, once: bool, as_json: bool
) -> None:
    """Show figures until interrupted; with `once`, as soon as every stream is live."""
    async with (
        source.directory(urls) as directory,
        follow(directory, keep_residents=True, connect=source.connect) as follower,
    ):
        top = Top(follower)
        counting = asyncio.create_task(top.count())
        try:
            if once:
                await _settle(top, source.timeout_s)
                await _show(top.rows(), as_json=as_json)
            elif as_json:
                while True:
                    await _show(top.rows(), as_json=True)
                    await asyncio.sleep(interval_s)
            else:
                await _show_live(top, interval_s)
        finally:
            counting.cancel()
            await asyncio.wait([counting])


async def _settle(top: Top, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not top.is_settled and time.monotonic() < deadline:  # noqa: ASYNC110 - states are told by no event
        await asyncio.sleep(0.05)
    if not top.rows():
        raise CommandError(UNREACHABLE, f"no stream was found within {timeout_s:g} s")


async def _show(rows: Sequence[Row], *, as_json: bool) -> None:
    if as_json:
        await write("".join(json.dumps(asdict(row)) + "\n" for row in rows))
        return
    console = Console(width=None if sys.stdout.isatty() else _WIDE)
    with console.capture() as captured:
        console.print(table(rows, width=console.width))
    await write(captured.get())


async def _show_live(top: Top, interval_s: float) -> None:
    console = Console()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(table(top.rows(), width=console.width), refresh=True)
            await asyncio.sleep(interval_s)


def table(rows: Sequence[Row], *, width: int) -> Table:
    """The table, with a column for every tier that holds something; roles where there is room."""
    tiers = [t.name.lower() for t in Tier if any(t.name.lower() in row.blocks for row in rows)]
    with_role = width >= _WIDE
    shown = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1))
    for name in ("worker", "state", "role") if with_role else ("worker", "state"):
        shown.add_column(name, no_wrap=True)
    for name in (*tiers, "stored/s", "removed/s", "hits", "lag", "behind", "gaps"):
        shown.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        shown.add_row(
            f"{row.worker}/{row.rank}",
            Text(row.state, style=_STATE_STYLE.get(row.state, "")),
            *((row.role or "-",) if with_role else ()),
            *(str(row.blocks.get(tier, 0)) for tier in tiers),
            f"{row.stored_per_s:.1f}",
            f"{row.removed_per_s:.1f}",
            "-" if row.hit_rate is None else f"{row.hit_rate:.0%}",
            "-" if row.lag_s is None else f"{row.lag_s * 1000:.0f} ms",
            str(row.behind),
            str(row.gaps),
        )
    if not rows:
        shown.add_row("waiting for streams")
    return shown
