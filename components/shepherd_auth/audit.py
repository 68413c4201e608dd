"""Who did what, when, with what outcome: JSON lines that are only ever appended.

    {"at": "2026-11-21T09:30:00.123Z", "subject": "key:3f9a1c0b7d2e", "tenant": "acme",
     "action": "search", "outcome": "ok", "status": 200, "count": 3, "session": "s1"}

Never a word of content: no query, no message, no fact.  A thread of its own
writes, so that no request waits for the disk; what does not fit into the queue
is counted as lost and said in the next line that is written.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

log = logging.getLogger(__name__)

QUEUE_LENGTH = 10_000


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One thing that somebody did, or was refused."""

    at_unix_s: float
    subject: str
    """Empty where the caller is not known."""
    tenant: str
    action: str
    """A word of the program: the name of the route, tool or command."""
    status: int
    """As HTTP says it."""
    count: int | None = None
    """How many things were read, changed or removed; None where that is not known."""
    session: str = ""

    def as_json(self, lost: int = 0) -> str:
        """One line without its end."""
        entry: dict[str, object] = {
            "at": datetime.fromtimestamp(self.at_unix_s, UTC).isoformat(timespec="milliseconds"),
            "subject": self.subject,
            "tenant": self.tenant,
            "action": self.action,
            "outcome": _outcome(self.status),
            "status": self.status,
        }
        if self.count is not None:
            entry["count"] = self.count
        if self.session:
            entry["session"] = self.session
        if lost:
            entry["lost_before"] = lost
        return json.dumps(entry)


class Audit(Protocol):
    """Where entries go."""

    def record(self, entry: AuditEntry) -> None:
        """Keep an entry; never waits, never raises."""
        ...


class NoAudit:
    """Keeps nothing."""

    def record(self, entry: AuditEntry) -> None:
        """See `Audit.record`."""


class AuditLog:
    """Appends to a file of mode 0600; owns a thread until `close`."""

    def __init__(self, path: Path, *, queue_length: int = QUEUE_LENGTH) -> None:
        """Open the file.

        Raises:
            OSError: it cannot be written.
        """
        descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(descriptor, "w", encoding="utf-8")
        self._queue: queue.Queue[AuditEntry | None] = queue.Queue(queue_length)
        self.lost = 0
        """Entries that were not written since the start."""
        self._told = 0
        self._thread = threading.Thread(target=self._write_all, name="audit-log")
        self._thread.start()

    def record(self, entry: AuditEntry) -> None:
        """See `Audit.record`."""
        try:
            self._queue.put_nowait(entry)
        except queue.Full:
            self.lost += 1

    def close(self) -> None:
        """Write what is queued and end the thread."""
        self._queue.put(None)
        self._thread.join()
        self._file.close()

    def _write_all(self) -> None:
        while (entry := self._queue.get()) is not None:
            try:
                lost = self.lost
                self._file.write(entry.as_json(lost - self._told) + "\n")
                self._file.flush()
                self._told = lost
            except OSError:
                self.lost += 1
                log.exception("an entry of the audit log was lost")


def _outcome(status: int) -> str:
    if status < 400:
        return "ok"
    return "denied" if status in {401, 403, 404, 429} else "refused" if status < 500 else "failed"
