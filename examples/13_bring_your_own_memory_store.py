"""Keep what the cache forgets in a store of your own.

A memory keeps its turns in `Archives`: one `Archive` for each tenant, whose protocol says
what every method promises.  This one writes down each archived turn as a line of JSON and
reads the lines when it is opened; for looking things up it builds on the tables in memory
that ship.  A worker's cache forgets a turn, the memory archives it here, makes the notice
and answers `search_memory`; then it all stops, and a second memory finds it again.  The
worker is a stand-in; everything behind it is the real service.

    python -m shepherd_memory --archive my_store:Diaries

takes such a store, and the contract suite says what it does not keep:

    SHEPHERD_TEST_ARCHIVE=my_store:Diaries pytest tests/contract -k "archive and foreign"

This one forgets live turns, facts, notices, and what was erased or recalled, when it is closed.

Expected output:

    the cache forgets   user: My cat is called Tibbles.
    the session hears   NOTICE: Conversation regarding "My cat is called Tibbles." has been moved to long-term memory. Use search_memory to recall it.
    the diary has       {"session": "me", "ordinal": 1, "words": ["My cat is called Tibbles.", "Noted."]}
    search_memory       found: My cat is called Tibbles.
    after a restart     found: My cat is called Tibbles.

    python examples/13_bring_your_own_memory_store.py
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import sys
from array import array
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

import aiohttp

from shepherd_events.discovery import StreamDescriptor, StreamJoined
from shepherd_events.events import BlockBatch, Body, Frame, StreamId, StreamInfo, TurnCompleted
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.stream_cursor import Position
from shepherd_events.transports.memory import MemoryBroker
from shepherd_memory.archive.fake import FakeArchive, FakeArchives
from shepherd_memory.archive.fake_tables import FakeWriter
from shepherd_memory.archive.records import Erased, Quota, StoredTurn
from shepherd_memory.config import MemoryConfig
from shepherd_memory.errors import NoTenantError
from shepherd_memory.eviction import Placement
from shepherd_memory.fake import FakeDirectory, FakeWorker, SpelledTranscript
from shepherd_memory.service import serve
from shepherd_memory.turns import Said

FACT = [("user", "My cat is called Tibbles."), ("assistant", "Noted.")]
THANKS = [("user", "Thank you."), ("assistant", "Not at all.")]
NOWHERE = Placement(StreamId(""), Position(0, 0), 0, array("Q"))


class Diary(FakeArchive):
    """One tenant's store: a file with a line for each archived turn."""

    def __init__(self, tenant: str, path: Path) -> None:
        super().__init__(tenant)
        self._path = path
        self._last = 0
        """The last document that is written down."""
        lines = path.read_text().splitlines() if path.exists() else []
        with super().writing() as writer:
            for line in lines:
                turn = from_line(line)
                writer.insert(turn)
                writer.archive(turn.archive_id, turn.archived_unix_ns)
        self._last = max((each.doc for each in self.documents(after=0)), default=0)

    @contextmanager
    def writing(self) -> Iterator[FakeWriter]:
        """See `Archive.writing`; what was archived is on the disk when the block has ended."""
        with super().writing() as writer:
            yield writer
        self._write_down("a")

    def erase_session(self, session: str, now_unix_ns: int) -> Erased:
        """See `Upkeep.erase_session`."""
        return self._rewritten(super().erase_session(session, now_unix_ns))

    def erase_turn(self, archive_id: str, now_unix_ns: int) -> Erased:
        """See `Upkeep.erase_turn`."""
        return self._rewritten(super().erase_turn(archive_id, now_unix_ns))

    def erase_all(self, now_unix_ns: int) -> Erased:
        """See `FakeArchive.erase_all`."""
        return self._rewritten(super().erase_all(now_unix_ns))

    def prune(self, quota: Quota, now_unix_ns: int) -> Erased:
        """See `Upkeep.prune`."""
        return self._rewritten(super().prune(quota, now_unix_ns))

    def _rewritten(self, erased: Erased) -> Erased:
        self._last = 0
        self._write_down("w")
        return erased

    def _write_down(self, mode: str) -> None:
        fresh = self.documents_turns(each.doc for each in self.documents(after=self._last))
        if not fresh and mode == "a":
            return
        with self._path.open(mode) as file:
            file.writelines(to_line(turn) for _, turn in sorted(fresh.items()))
            file.flush()
            os.fsync(file.fileno())
        self._last = max(fresh, default=self._last)


def to_line(turn: StoredTurn) -> str:
    """A turn as JSON."""
    words = [(said.role, said.text) for said in turn.messages]
    times = (turn.started_unix_ns, turn.archived_unix_ns)
    line = (turn.archive_id, turn.session, turn.ordinal, turn.digest, *times, words)
    return json.dumps(line) + "\n"


def from_line(line: str) -> StoredTurn:
    """What `to_line` wrote; where its KV lay is of no interest any more."""
    archive_id, session, ordinal, digest, started_ns, archived_ns, words = json.loads(line)
    messages = tuple(Said(role, text) for role, text in words)
    return StoredTurn(
        *(archive_id, session, ordinal, digest, messages, NOWHERE, ""),
        started_unix_ns=started_ns,
        archived_unix_ns=archived_ns,
    )


class Diaries(FakeArchives):
    """All tenants' stores in a directory; a file's name says nothing of its tenant's."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory
        self._open: dict[str, Diary] = {}
        self._lock = Lock()
        for names in directory.glob("*.tenant"):
            self.of(names.read_text())

    def of(self, tenant: str) -> Diary:
        """See `Archives.of`."""
        if not tenant:
            raise NoTenantError
        with self._lock:
            if tenant not in self._open:
                path = self._directory / hashlib.sha256(tenant.encode()).hexdigest()[:32]
                path.with_suffix(".tenant").write_text(tenant)
                self._open[tenant] = Diary(tenant, path.with_suffix(".jsonl"))
            return self._open[tenant]

    def tenants(self) -> list[str]:
        """See `Archives.tenants`."""
        return sorted(self._open)


class Worker(FakeWorker):
    """A worker's cache whose frames go to whoever listens."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__("w1")
        transport = broker.publisher("w1")
        info = StreamInfo("fake", 4, "fake")
        self.publisher = KvEventPublisher(StreamId("w1"), info, transport, heartbeat_s=0.05)
        self.publisher.start()

    def emit(self, body: Body) -> Frame:
        """See `FakeWorker.emit`."""
        match body:
            case BlockBatch():
                self.publisher.publish(body.events)
            case TurnCompleted():
                self.publisher.publish_turn(body)
        return super().emit(body)


@asynccontextmanager
async def memory(data_dir: str, broker: MemoryBroker) -> AsyncIterator[Client]:
    """The memory service with its turns in diaries."""
    config = MemoryConfig(
        data_dir=data_dir,
        archive=f"{Path(__file__).stem}:Diaries",
        http_port=0,
        admin_port=None,
        archive_grace_s=0,
    )
    directory, ready = FakeDirectory(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(
        serve(
            *(config, directory),
            make_transcript=lambda _: SpelledTranscript(),
            connect=broker.connect,
            on_ready=ready.set_result,
        )
    )
    await asyncio.wait([serving, ready], return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
    async with aiohttp.ClientSession(base_url=ready.result()) as http:
        yield Client(http, directory)
    serving.cancel()
    await asyncio.wait([serving])


@dataclass(frozen=True)
class Client:
    """Asks a running memory."""

    http: aiohttp.ClientSession
    workers: FakeDirectory

    async def get(self, path: str, **query: str) -> Any:
        """A document."""
        async with self.http.get(path, params=query) as answer:
            return await answer.json()

    async def recalled(self, query: str) -> str:
        """What `search_memory` finds."""
        asked = {"arguments": {"query": query}}
        async with self.http.post("/v1/tools/search_memory", json=asked) as answer:
            found = str((await answer.json())["content"])
        return "found: My cat is called Tibbles." if FACT[0][1] in found else "nothing"


def shown(data_dir: str) -> str:
    """The diary's line, without what is of no interest here."""
    (diary,) = Path(data_dir).glob("tenants/*.jsonl")
    _, session, ordinal, *_, words = json.loads(diary.read_text())
    texts = [text for _, text in words]
    return json.dumps({"session": session, "ordinal": ordinal, "words": texts})


async def main() -> None:
    """Evict, be told, recall; and once more after a restart."""
    logging.disable(logging.WARNING)
    broker = MemoryBroker()
    worker = Worker(broker)
    address = worker.publisher.address
    with TemporaryDirectory() as data_dir:
        async with memory(data_dir, broker) as client:
            client.workers.say(StreamJoined(StreamDescriptor(address, "aggregated", "fake", 4)))
            worker.complete([*FACT, *THANKS], session="me")
            print(f"{'the cache forgets':19} user: {FACT[0][1]}")
            worker.evict(worker.blocks_of(FACT))
            told = await client.get("/v1/notices/wait", session="me", timeout="30")
            print(f"{'the session hears':19} {told['notices'][0]['text']}")
            print(f"{'the diary has':19} {shown(data_dir)}")
            print(f"{'search_memory':19} {await client.recalled('name of the cat')}")
        async with memory(data_dir, broker) as client:
            print(f"{'after a restart':19} {await client.recalled('name of the cat')}")
    worker.publisher.close("the example is over")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    asyncio.run(main())
