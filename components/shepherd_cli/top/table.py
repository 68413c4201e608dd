"""How a `Picture` looks in a terminal: what matters least is left out where it is narrow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from rich.console import Group
from rich.table import Table
from rich.text import Text

from shepherd_cli.top.rows import GatewayRow, MemoryRow, Picture, ProcessRow, WorkerRow

R = TypeVar("R")
_STYLES: Final = {
    "ready": "green",
    "running": "green",
    "starting": "yellow",
    "backing off": "yellow",
    "waiting": "yellow",
    "stopping": "yellow",
    "away": "red",
    "frozen": "red",
    "gone": "red",
}
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class _Column(Generic[R]):
    title: str
    shown: Callable[[R], str | Text]
    from_width: int = 0
    """Columns of the terminal below which it is left out."""


def _number(value: float | None, places: int = 0) -> str:
    return "-" if value is None else f"{value:.{places}f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _milliseconds(value_s: float | None) -> str:
    return "-" if value_s is None else f"{value_s * 1000:.0f} ms"


def _state(state: str) -> Text:
    return Text(state, style=_STYLES.get(state, ""))


def _cache(tier: str) -> Callable[[WorkerRow], str]:
    def shown(row: WorkerRow) -> str:
        if tier not in row.blocks:
            return "-"
        used, total = row.blocks[tier]
        return f"{used:.0f}/{total:.0f}"

    return shown


_PROCESSES: Final[tuple[_Column[ProcessRow], ...]] = (
    _Column("process", lambda row: row.name),
    _Column("state", lambda row: _state(row.state)),
    _Column("restarts", lambda row: str(row.restarts), 40),
    _Column("cpu", lambda row: _share(row.cpu), 32),
    _Column("rss", lambda r: "-" if r.rss_bytes is None else f"{r.rss_bytes / _MIB:.0f} MiB", 48),
    _Column("pid", lambda row: "-" if row.pid is None else str(row.pid), 60),
)
_WORKERS: Final[tuple[_Column[WorkerRow], ...]] = (
    _Column("worker", lambda row: row.name),
    _Column("running", lambda row: _number(row.running)),
    _Column("waiting", lambda row: _number(row.waiting), 40),
    _Column("tokens/s", lambda row: _number(row.tokens_per_s, 1), 32),
    _Column("device", _cache("device"), 48),
    _Column("host", _cache("host"), 76),
    _Column("hits", lambda row: _share(row.hit_rate), 56),
    _Column("events/s", lambda row: _number(row.events_per_s, 1), 68),
    _Column("dropped", lambda row: _number(row.dropped), 84),
)
_MEMORY: Final[tuple[_Column[MemoryRow], ...]] = (
    _Column("memory", lambda _: ""),
    _Column("archived", lambda row: _number(row.archived)),
    _Column("archived/s", lambda row: _number(row.archived_per_s, 1), 40),
    _Column("lag", lambda row: _milliseconds(row.lag_s), 30),
    _Column("backlog", lambda row: _number(row.backlog), 48),
    _Column("gaps", lambda row: _number(row.gaps), 56),
    _Column("mismatches", lambda row: _number(row.mismatches), 100),
    _Column("in grace", lambda row: _number(row.in_grace), 76),
    _Column("notices", lambda row: _number(row.notices), 68),
    _Column("untaken", lambda row: _number(row.unacknowledged), 84),
    _Column("searches/s", lambda row: _number(row.searches_per_s, 1), 96),
)
_GATEWAY: Final[tuple[_Column[GatewayRow], ...]] = (
    _Column("gateway", lambda _: ""),
    _Column("requests/s", lambda row: _number(row.requests_per_s, 1)),
    _Column("in progress", lambda row: _number(row.in_progress), 48),
    _Column("5xx/s", lambda row: _number(row.failed_per_s, 1), 30),
    _Column("adds", lambda row: _milliseconds(row.added_s), 60),
)


def tables(picture: Picture, *, width: int) -> Group:
    """Everything, one table below another."""
    shown: list[Any] = [Text.assemble("stack ", _state(picture.stack)), Text()]
    shown.append(_table(_PROCESSES, picture.processes, width))
    if picture.workers:
        shown += [Text(), _table(_WORKERS, picture.workers, width)]
    if picture.memory is not None:
        shown += [Text(), _table(_MEMORY, [picture.memory], width)]
    if picture.gateway is not None:
        shown += [Text(), _table(_GATEWAY, [picture.gateway], width)]
    return Group(*shown)


def _table(columns: Iterable[_Column[R]], rows: Sequence[R], width: int) -> Table:
    shown = [column for column in columns if width >= column.from_width]
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1))
    for number, column in enumerate(shown):
        is_text = number == 0 or column.title == "state"
        table.add_column(column.title, justify="left" if is_text else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(column.shown(row) for column in shown))
    return table
