"""Where a reader stood in each stream, kept over its restarts.

A position is stored after what it stands for was dealt with, so that a reader
which is killed in between sees the last items again and misses none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from shepherd_events.errors import KvEventsError
from shepherd_events.events import StreamId
from shepherd_events.stream_cursor import Position

_VERSION = 1


class CursorFileError(KvEventsError):
    """A file of positions that holds something else."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        super().__init__(f"{path} holds no positions: {problem}; remove it to begin anew")


class CursorStore(Protocol):
    """Keeps positions; called from one thread at a time, which may wait."""

    def load(self) -> dict[StreamId, Position]:
        """What was saved last; empty at first.

        Raises:
            OSError, KvEventsError: it cannot be read.
        """
        ...

    def save(self, positions: Mapping[StreamId, Position]) -> None:
        """Keep all of these and nothing else; entirely or, where it fails, not at all.

        Raises:
            OSError: it cannot be written.
        """
        ...


class FileCursorStore:
    """A small JSON file, replaced as a whole; one reader a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> dict[StreamId, Position]:
        """See `CursorStore.load`.

        Raises:
            OSError: it cannot be read.
            CursorFileError: the file was not written by `save`.
        """
        try:
            text = self._path.read_text()
        except FileNotFoundError:
            if not self._path.parent.is_dir():
                raise  # nothing could be saved there
            return {}
        try:
            stored = json.loads(text)
            if stored["version"] != _VERSION:
                raise CursorFileError(self._path, f"version {stored['version']!r} is not known")
            return {
                StreamId(str(entry["worker"]), int(entry["rank"])): Position(
                    int(entry["epoch"]), int(entry["seq"])
                )
                for entry in stored["positions"]
            }
        except (KeyError, TypeError, ValueError) as error:
            raise CursorFileError(self._path, repr(error)) from error

    def save(self, positions: Mapping[StreamId, Position]) -> None:
        """See `CursorStore.save`."""
        entries = [
            {"worker": s.worker_id, "rank": s.dp_rank, "epoch": p.epoch, "seq": p.seq}
            for s, p in sorted(positions.items(), key=lambda entry: str(entry[0]))
        ]
        text = json.dumps({"version": _VERSION, "positions": entries}, indent=1)
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with draft.open("w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)
