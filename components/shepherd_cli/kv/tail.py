"""`shepherd kv tail`: events as they come, one a line."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shepherd_cli.kv.lines import EventLine, lines_of
from shepherd_cli.kv.sources import Source
from shepherd_cli.kv.terminal import say, write
from shepherd_events.cursor_store import FileCursorStore
from shepherd_events.discovery import StreamJoined, StreamLeft
from shepherd_events.event_filter import EventFilter
from shepherd_events.follow import Change, StreamItem, follow


@dataclass(frozen=True, slots=True, kw_only=True)
class TailOptions:
    """What to show, from where on, and how much."""

    wanted: EventFilter
    show: Callable[[EventLine], str]
    from_start: bool = False
    with_tokens: bool = False
    count: int = 0
    """Lines after which it ends; 0 for never."""
    cursor_file: Path | None = None


class Tail:
    """Turns changes into lines."""

    def __init__(self, options: TailOptions, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._options = options
        self._clock_ns = clock_ns

    def lines(self, change: Change) -> list[str]:
        """The lines of one change; joins and leaves have none."""
        if not isinstance(change, StreamItem):
            return []
        options = self._options
        events = lines_of(
            change.stream,
            change.item,
            at_unix_ns=self._clock_ns(),
            with_tokens=options.with_tokens,
        )
        return [options.show(event) for event in events]


async def run_tail(source: Source, urls: Sequence[str], options: TailOptions) -> None:
    """Write lines until there are enough of them, or for ever."""
    tail, written = Tail(options), 0
    store = FileCursorStore(options.cursor_file) if options.cursor_file else None
    async with (
        source.directory(urls) as directory,
        follow(
            directory,
            from_head=not options.from_start,
            cursors=store,
            wanted=options.wanted,
            keys=source.keys,
            connect=source.connect,
        ) as changes,
    ):
        async for change in changes:
            announce(change)
            lines = tail.lines(change)
            shown = lines[: options.count - written] if options.count else lines
            if shown:
                await write("".join(line + "\n" for line in shown))
                written += len(shown)
            if options.count and written >= options.count:
                if shown == lines:
                    changes.finish()
                return


def announce(change: Change) -> None:
    """Tell who comes and goes."""
    if isinstance(change, StreamJoined):
        address = change.descriptor.address
        words = " ".join(w for w in (change.descriptor.role, change.descriptor.model) if w)
        say(f"+ {address.stream} {address.live}{' ' + words if words else ''}")
    elif isinstance(change, StreamLeft):
        say(f"- {change.stream}")
