"""Kills a memory at its system calls, one after the other, and looks at what comes back.

    python crash_process.py DIRECTORY POINTS

A child applies a story of two tenants, tells the notices and acknowledges them.  It is
traced, and gets SIGKILL when it enters or leaves its n-th system call; another child goes
on from what is on disk.  Prints as JSON how many calls there were, how many children were
killed, and for which n the outcome is not that of a child that nobody disturbed.  POINTS
are taken evenly from all calls; 0 takes every one.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shepherd_events.events import Frame
from shepherd_events.stream_cursor import Position
from shepherd_memory.archive.files import SqliteArchives
from shepherd_memory.archive.records import NoticeState
from shepherd_memory.clocks import Clocks
from shepherd_memory.consumer import Consumer
from shepherd_memory.fake import FakeWorker, SpelledTranscript
from shepherd_memory.index_store import IndexStore
from shepherd_memory.metrics import Metrics

TRACE_ME, TRACE_SYSCALL, SET_OPTIONS = 0, 24, 0x4200
KILL_WITH_TRACER = 0x100000
TENANTS = ("local", "acme")
BATCH = 3
TOLD = "told.log"


def story() -> list[Frame]:
    """Two tenants talk for three turns each, and lose their first two."""
    worker = FakeWorker()
    said: dict[str, list[tuple[str, str]]] = {"": [], "acme": []}
    for turn in ("one or uno", "two or due", "three or tre"):
        for tenant, messages in said.items():
            messages += [("user", f"{turn}?"), ("assistant", f"{turn}!")]
            worker.complete(messages, tenant=tenant)
    for start in (0, 6):
        for tenant, messages in said.items():
            worker.evict(worker.blocks_of(messages, salt=tenant)[start : start + 3])
    return worker.frames


class Memory:
    """The service without its event loop: the steps between receiving and acknowledging."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._archives = SqliteArchives(directory / "tenants")
        self._store = IndexStore(directory / "index.db")
        self._frames = story()
        self._consumer = Consumer(
            archives=self._archives,
            store=self._store,
            transcripts={self._frames[0].stream: SpelledTranscript()},
            metrics=Metrics(),
            grace_ns=0,
            clocks=Clocks(unix_ns=lambda: 1, monotonic_ns=lambda: 1),
        )

    def work(self) -> None:
        """Go on where the last one stood, to the end."""
        self._tell()
        at = self._consumer.positions.get(self._frames[0].stream)
        left = [each for each in self._frames if at is None or Position(each.epoch, each.seq) > at]
        for start in range(0, len(left), BATCH):
            self._consumer.apply(left[start : start + BATCH])
            self._tell()
        self.close()

    def outcome(self) -> dict[str, Any]:
        """All that tenants and operators can see."""
        archives = {tenant: self._archives.of(tenant) for tenant in TENANTS}
        told = self._directory / TOLD
        return {
            "positions": [str(each) for each in self._consumer.positions.values()],
            "tenants": {
                tenant: {
                    "turns": [
                        (turn.ordinal, turn.state, [said.text for said in turn.messages])
                        for turn in archive.turns("s", after=0, limit=99)
                    ],
                    "searchable": sum(1 for _ in archive.documents(after=0)),
                    "told_of": sorted(
                        archive_id
                        for row in archive.notices(session=None, state=None, after=0, limit=99)
                        for archive_id in row.notice.archive_ids
                    ),
                    "unheard": len(self._pending(tenant)),
                    "dead_letters": len(archive.dead_letters(after="", limit=9)),
                }
                for tenant, archive in archives.items()
            },
            "told": sorted(set(told.read_text().split())) if told.exists() else [],
        }

    def notice_ids(self) -> list[str]:
        """Of all notices there are, in order."""
        return sorted(
            row.notice.notice_id
            for tenant in TENANTS
            for row in self._archives.of(tenant).notices(
                session=None, state=None, after=0, limit=99
            )
        )

    def close(self) -> None:
        self._store.close()
        self._archives.close()

    def _tell(self) -> None:
        for tenant in TENANTS:
            for row in self._pending(tenant):
                with (self._directory / TOLD).open("a") as log:
                    log.write(f"{row.notice.notice_id}\n")
                with self._archives.of(tenant).writing() as writer:
                    writer.acknowledge(row.notice.notice_id)

    def _pending(self, tenant: str) -> Sequence[Any]:
        return self._archives.of(tenant).notices(
            session=None, state=NoticeState.PENDING, after=0, limit=99
        )


class Tracer:
    """`ptrace` of one child; Linux only."""

    def __init__(self) -> None:
        self._ptrace = ctypes.CDLL(None, use_errno=True).ptrace
        self._ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        self._ptrace.restype = ctypes.c_long

    def run(self, directory: Path, kill_at: int | None) -> int:
        """Run a child, up to a stop where it is killed; returns the number of its stops."""
        child = os.fork()
        if child == 0:
            try:
                self._call(TRACE_ME, 0)
                os.kill(os.getpid(), signal.SIGSTOP)
                Memory(directory).work()
            finally:
                os._exit(sys.exc_info()[0] is not None)
        os.waitpid(child, 0)
        self._call(SET_OPTIONS, child, KILL_WITH_TRACER)
        stops, passed_on = 0, 0
        while True:
            self._call(TRACE_SYSCALL, child, passed_on)
            _, status = os.waitpid(child, 0)
            if not os.WIFSTOPPED(status):
                assert kill_at is not None or os.waitstatus_to_exitcode(status) == 0
                return stops
            stops += 1
            received = os.WSTOPSIG(status)
            passed_on = 0 if received == signal.SIGTRAP else received
            if stops == kill_at:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return stops

    def _call(self, request: int, child: int, value: int = 0) -> None:
        if self._ptrace(request, child, None, value) != 0:
            raise OSError(ctypes.get_errno(), f"ptrace({request})")


def undisturbed(directory: Path) -> None:
    """Let a child go on to the end."""
    child = os.fork()
    if child == 0:
        try:
            Memory(directory).work()
        finally:
            os._exit(sys.exc_info()[0] is not None)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, "the memory that came after did not start"


def outcome(directory: Path) -> dict[str, Any]:
    memory = Memory(directory)
    try:
        found = memory.outcome()
        # Which turns one notice tells of depends on where the crash cut a batch, that each
        # notice was told does not.
        found["told"] = set(found["told"]) >= set(memory.notice_ids())
        return found
    finally:
        memory.close()


def main(root: Path, points: int) -> dict[str, Any]:
    tracer = Tracer()
    calm = root / "calm"
    calm.mkdir()
    calls = tracer.run(calm, None)
    expected = outcome(calm)
    step = max(1, calls // points) if points else 1
    killed, differences = 0, []
    for kill_at in range(1, calls, step):
        directory = root / "killed"
        directory.mkdir()
        killed += tracer.run(directory, kill_at) == kill_at
        undisturbed(directory)
        if (found := outcome(directory)) != expected:
            differences.append({"kill_at": kill_at, "found": found})
        shutil.rmtree(directory)
    return {"calls": calls, "killed": killed, "differences": differences, "expected": expected}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
