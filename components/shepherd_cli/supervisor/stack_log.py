"""The one log: lines of all processes in the order in which they came, written by a thread.

Whoever writes a line never waits.  Where nobody reads the log fast enough, as on a
terminal that was stopped, lines are dropped, counted, and their number is told.
"""

from __future__ import annotations

import queue
import threading
from collections import defaultdict, deque
from types import TracebackType
from typing import Final, Self, TextIO

from shepherd_cli.supervisor.lines import OWN, Show
from shepherd_cli.supervisor.log_files import LogFiles

MAX_WAITING: Final = 10_000
"""Lines that may wait for whoever reads the log."""
NUM_LAST: Final = 15
"""Lines of a process that are remembered."""
_CLOSING_S: Final = 2.0


class StackLog:
    """Used as a context manager; `write` and `last` in the event loop only."""

    def __init__(
        self,
        show: Show,
        sink: TextIO,
        files: LogFiles | None = None,
        *,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        """`files` is closed in the end, `sink` is not."""
        self.num_lost = 0
        """Lines that nobody read in time."""
        self._show = show
        self._sink: TextIO | None = sink
        self._files = files
        self._waiting: queue.Queue[tuple[str, str] | None] = queue.Queue(max_waiting)
        self._last: defaultdict[str, deque[str]] = defaultdict(lambda: deque(maxlen=NUM_LAST))
        self._num_told = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write what waits, if somebody reads it within two seconds."""
        try:
            self._waiting.put(None, timeout=_CLOSING_S)
        except queue.Full:
            return
        self._thread.join(_CLOSING_S)

    def write(self, process: str, line: str) -> None:
        """Add a line of a process."""
        self._last[process].append(line)
        try:
            if self.num_lost > self._num_told:
                told = f"{self.num_lost - self._num_told} lines were dropped: nobody read them"
                self._waiting.put_nowait((OWN, told))
                self._num_told = self.num_lost
            self._waiting.put_nowait((process, line))
        except queue.Full:
            self.num_lost += 1

    def say(self, line: str) -> None:
        """Add a line of the supervisor's own."""
        self.write(OWN, line)

    def last(self, process: str) -> list[str]:
        """The last lines of a process."""
        return list(self._last[process])

    def _run(self) -> None:
        while (entry := self._waiting.get()) is not None:
            self._put(*entry)
        if self._files is not None:
            self._files.close()

    def _put(self, process: str, line: str) -> None:
        if self._files is not None:
            self._files.write(process, line)
        if self._sink is None:
            return
        try:
            self._sink.write(self._show(process, line) + "\n")
            if self._waiting.empty():
                self._sink.flush()
        except (OSError, ValueError):  # whoever read it is gone
            self._sink = None
