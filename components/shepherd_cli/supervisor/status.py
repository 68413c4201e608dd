"""What a supervisor tells of its processes: a small file beside them, replaced as a whole.

Whoever looks on, as `shepherd top`, reads it; where the supervisor was killed, the
file stays and `is_running` is false.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

FILE_NAME: Final = "stack.json"


class StatusFileError(Exception):
    """The file is not there, or not one of ours."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        super().__init__(f"{path} {problem}: expected what `shepherd up` writes")


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process."""

    name: str
    role: str
    state: str
    """As `decisions.State` spells it."""
    pid: int | None
    restarts: int
    last_exit_code: int | None
    url: str
    metrics_url: str
    """Empty where it has no metrics."""


@dataclass(frozen=True, slots=True)
class StackStatus:
    """All of them, and whoever keeps them running."""

    pid: int
    started_unix_s: float
    processes: tuple[ProcessStatus, ...]
    stopping: str = ""
    """Why everything is being stopped; empty while it runs."""

    @property
    def is_running(self) -> bool:
        """Whether the supervisor still is."""
        with suppress(OSError):
            return b"shepherd" in Path(f"/proc/{self.pid}/cmdline").read_bytes()
        return False

    def write(self, path: Path) -> None:
        """Replace the file.

        Raises:
            OSError: it cannot be written.
        """
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_text(json.dumps(asdict(self), indent=1) + "\n")
        draft.replace(path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """What was written last.

        Raises:
            StatusFileError: there is no such file, or it is another kind.
        """
        try:
            fields: dict[str, Any] = json.loads(path.read_text())
            processes = _processes(fields.pop("processes"))
            return cls(processes=tuple(processes), **fields)
        except OSError as error:
            raise StatusFileError(path, f"cannot be read ({error.strerror})") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StatusFileError(path, f"is not readable ({type(error).__name__})") from error


def _processes(entries: Iterable[dict[str, Any]]) -> Iterable[ProcessStatus]:
    return (ProcessStatus(**entry) for entry in entries)
