"""A turn as it is shown: where it stands, and its blocks drawn in one line.

    live      every block on a device, or at worst on the host, or farther    device host disk
    live      a block is nowhere, or there is none                            evicted
    archived  not looked up since, or looked up                               archived recalled

A turn stands where its worst block does: one missing block keeps all of it from
being served.  Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from typing import NamedTuple

from shepherd_events.events import StreamId, Tier
from shepherd_memory.archive.records import StoredTurn, TurnState
from shepherd_memory.residency import Residency

MAX_CELLS = 64
"""Blocks that are drawn one by one; of more, each cell is the worst of several."""
CELL_WIDTH = 6
CELL_HEIGHT = 18


class Standing(StrEnum):
    """Where a turn is, in the order in which it gets farther away."""

    DEVICE = "device"
    HOST = "host"
    DISK = "disk"
    EVICTED = "evicted"
    ARCHIVED = "archived"
    RECALLED = "recalled"

    @property
    def words(self) -> str:
        """As people are told."""
        return _WORDS[self]

    @property
    def glyph(self) -> str:
        """Beside the words, for who does not tell the colours apart."""
        return _GLYPHS[self]


_WORDS = {
    Standing.DEVICE: "on a device",
    Standing.HOST: "in host memory",
    Standing.DISK: "on disk or farther",
    Standing.EVICTED: "evicted",
    Standing.ARCHIVED: "archived",
    Standing.RECALLED: "recalled",
}
_GLYPHS = {
    Standing.DEVICE: "■",
    Standing.HOST: "▄",
    Standing.DISK: "▁",
    Standing.EVICTED: "×",  # noqa: RUF001  a cross
    Standing.ARCHIVED: "◇",
    Standing.RECALLED: "↩",
}
_HEIGHTS = {"device": CELL_HEIGHT, "host": 11, "disk": 6, "gone": 2}


class Cell(NamedTuple):
    """A block, or several, as a bar: the nearer, the higher."""

    x: int
    y: int
    height: int
    place: str
    """device, host, disk or gone."""


class Place(NamedTuple):
    """How many of a turn's blocks one worker holds in one place."""

    worker: StreamId
    tier: str
    blocks: int


@dataclass(frozen=True, slots=True)
class TurnView:
    """One turn with all that is shown beside its words."""

    turn: StoredTurn
    residency: Residency
    recalled_unix_ns: int
    """0 where nobody recalled it."""
    is_newest: bool

    @property
    def anchor(self) -> str:
        """Its id within a page."""
        return f"turn-{self.turn.archive_id[:16]}"

    @property
    def standing(self) -> Standing:
        """See the table above."""
        if self.turn.state is TurnState.ARCHIVED:
            return Standing.RECALLED if self.recalled_unix_ns else Standing.ARCHIVED
        if not self.residency.is_whole:
            return Standing.EVICTED
        return Standing(place_of(max(filter(None, self.residency.tiers))))

    @property
    def is_spread(self) -> bool:
        """Whether a live turn stands where some of its blocks do, but not all."""
        near = {place_of(tier) for tier in self.residency.tiers}
        return self.standing in {Standing.HOST, Standing.DISK} and len(near) > 1

    @property
    def is_back(self) -> bool:
        """Whether an archived turn's KV is in a cache again, or still."""
        return self.turn.state is TurnState.ARCHIVED and self.residency.is_whole

    @property
    def cells(self) -> list[Cell]:
        """Its blocks, drawn."""
        return cells_of(self.residency.tiers)

    @property
    def width(self) -> int:
        """Of the drawing."""
        return CELL_WIDTH * len(self.cells)

    @property
    def places(self) -> list[Place]:
        """Who holds how many of its blocks, by worker and tier."""
        return [
            Place(stream, tier.name.lower(), blocks)
            for (stream, tier), blocks in sorted(
                self.residency.held.items(), key=lambda each: (str(each[0][0]), each[0][1])
            )
        ]


def views_of(
    turns: Sequence[StoredTurn], residencies: Sequence[Residency], recalled: dict[str, int]
) -> list[TurnView]:
    """The turns of one session as they are shown."""
    newest = max(turns, key=lambda turn: turn.age_key, default=None)
    return [
        TurnView(turn, residency, recalled.get(turn.archive_id, 0), turn is newest)
        for turn, residency in zip(turns, residencies, strict=True)
    ]


def tally(views: Iterable[TurnView]) -> list[tuple[Standing, int]]:
    """How many turns stand where; only where any does."""
    counted = Counter(view.standing for view in views)
    return [(standing, counted[standing]) for standing in Standing if counted[standing]]


def place_of(tier: Tier | None) -> str:
    """The name of a tier as it is drawn: what is farther than the host is one place."""
    if tier is None:
        return "gone"
    return {Tier.DEVICE: "device", Tier.HOST: "host"}.get(tier, "disk")


def cells_of(tiers: Sequence[Tier | None]) -> list[Cell]:
    """At most `MAX_CELLS` bars for blocks in order."""
    each = max(1, ceil(len(tiers) / MAX_CELLS))
    groups = [tiers[start : start + each] for start in range(0, len(tiers), each)]
    cells = []
    for number, group in enumerate(groups):
        worst = None if None in group else max(filter(None, group))
        place = place_of(worst)
        height = _HEIGHTS[place]
        cells.append(Cell(CELL_WIDTH * number, CELL_HEIGHT - height, height, place))
    return cells
