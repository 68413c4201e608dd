"""What a person sees of the demo: the conversations left, cache, archive and recall right.

`LiveStage` draws both sides of a terminal anew as things happen; `PlainStage` writes
the same as lines, for logs and pipes.  Neither knows where what it shows comes from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.layout import Layout
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

MAX_LINES = 200
"""Kept of each side; a terminal shows the last of them."""

_BESIDE_BAR = 20
"""Characters of a cache's line that are no bar."""


@dataclass(frozen=True, slots=True)
class CacheShown:
    """One worker's cache, in blocks."""

    role: str
    stored: int
    removed: int
    capacity: int

    def line(self, max_cells: int) -> Text:
        """A bar of at most so many characters, and what came and went."""
        cells = max(1, min(self.capacity, max_cells))
        filled = min(cells, -(-(self.stored - self.removed) * cells // self.capacity))
        line = Text(f"{self.role:<8}", style="dim")
        line.append("█" * filled, "green")
        line.append("░" * (cells - filled), "dim")
        line.append(f" +{self.stored}", "green")
        return line.append(f" -{self.removed}", "red")


class Stage(Protocol):
    """Where the demo is shown; used as a context manager, from one thread."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def act(self, title: str) -> None:
        """A new part of the story begins."""
        ...

    def asks(self, who: str, text: str) -> None:
        """Somebody says something to the model."""
        ...

    def answers(self, text: str, *, whole: bool) -> None:
        """What of the model's answer has come so far."""
        ...

    def caches(self, shown: Sequence[CacheShown]) -> None:
        """What the workers hold now."""
        ...

    def remembers(self, text: str, style: str = "") -> None:
        """Something was archived, told, or looked up."""
        ...


class PlainStage:
    """Line after line."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def act(self, title: str) -> None:
        """See `Stage`."""
        self._print(Text(f"\n{title}", style="bold"))

    def asks(self, who: str, text: str) -> None:
        """See `Stage`."""
        self._print(_asked(who, text))

    def answers(self, text: str, *, whole: bool) -> None:
        """See `Stage`; a line is written when it is whole."""
        if whole:
            self._print(_answered(text))

    def caches(self, shown: Sequence[CacheShown]) -> None:
        """See `Stage`."""
        for each in shown:
            self._print(Text("        ") + each.line(each.capacity))

    def remembers(self, text: str, style: str = "") -> None:
        """See `Stage`."""
        self._print(Text(f"        {text}", style=style))

    def _print(self, line: Text) -> None:
        self._console.print(line, soft_wrap=True, highlight=False)


class LiveStage:
    """Two sides that change in place; what they show last stays on the screen."""

    def __init__(self, console: Console) -> None:
        self._said: deque[Text] = deque(maxlen=MAX_LINES)
        self._answer = Text()
        self._caches: tuple[CacheShown, ...] = ()
        self._remembered: deque[Text] = deque(maxlen=MAX_LINES)
        self._title = ""
        self._console = console
        self._live = Live(
            console=console, get_renderable=self.picture, refresh_per_second=12, screen=False
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def act(self, title: str) -> None:
        """See `Stage`."""
        self._title = title

    def asks(self, who: str, text: str) -> None:
        """See `Stage`."""
        self._said.append(_asked(who, text))

    def answers(self, text: str, *, whole: bool) -> None:
        """See `Stage`."""
        self._answer = _answered(text)
        if whole:
            self._said.append(self._answer)
            self._answer = Text()

    def caches(self, shown: Sequence[CacheShown]) -> None:
        """See `Stage`."""
        self._caches = tuple(shown)

    def remembers(self, text: str, style: str = "") -> None:
        """See `Stage`."""
        self._remembered.append(Text(text, style=style))

    def picture(self) -> Layout:
        """Both sides as they are now."""
        height = max(12, self._console.height - 1)
        width = max(20, self._console.width // 2 - 4)
        said = [*self._said, self._answer] if self._answer else list(self._said)
        cache = Panel(
            Group(*(each.line(width - _BESIDE_BAR) for each in self._caches)), title="KV cache"
        )
        memory = _last(self._remembered, width, height - len(self._caches) - 4)
        layout = Layout(size=height)
        layout.split_row(Layout(name="left"), Layout(name="right"))
        layout["left"].update(Panel(_last(said, width, height - 2), title=self._title))
        layout["right"].split_column(
            Layout(cache, size=len(self._caches) + 2), Layout(Panel(memory, title="memory"))
        )
        return layout


def stage_for(console: Console) -> Stage:
    """What fits the console: a live picture where it is a terminal, else lines."""
    return LiveStage(console) if console.is_terminal else PlainStage(console)


def _asked(who: str, text: str) -> Text:
    return Text(f"{who:>6}  {text}", style="bold cyan")


def _answered(text: str) -> Text:
    return Text(f"        {text}")


def _last(lines: Sequence[Text] | deque[Text], width: int, height: int) -> Group:
    """As many of the last lines as there is room for, once they are wrapped."""
    kept: deque[Text] = deque()
    room = height
    for line in reversed(lines):
        room -= -(-max(1, line.cell_len) // width)
        if room < 0:
            break
        kept.appendleft(line)
    return Group(*kept)
