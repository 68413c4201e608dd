"""A memory on disk that can be stopped and started again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from shepherd_events.events import Notice, StreamId
from shepherd_memory.archive.files import SqliteArchives
from shepherd_memory.archive.protocol import Archives
from shepherd_memory.archive.records import StoredTurn, TurnState
from shepherd_memory.arrivals import Arrival
from shepherd_memory.clocks import Clocks
from shepherd_memory.consumer import Consumer
from shepherd_memory.fake import SpelledTranscript
from shepherd_memory.index_store import IndexStore
from shepherd_memory.metrics import Metrics
from shepherd_memory.recorder import Transcript
from shepherd_memory.search import SearchHit, search

STREAMS = [StreamId(f"w{number}") for number in range(1, 5)]


class World:
    """Consumer, stores and metrics over one directory."""

    def __init__(self, directory: Path, *, grace_ns: int = 0) -> None:
        self._directory = directory
        self.grace_ns = grace_ns
        self.now_ns = 0
        """What the monotonic clock shows."""
        self.notices: list[Notice] = []
        self.start()

    def start(
        self,
        archives: Callable[[Path], Archives] = SqliteArchives,
        store: Callable[[Path], IndexStore] = IndexStore,
        transcript: Transcript | None = None,
    ) -> None:
        self.metrics = Metrics()
        self.archives = archives(self._directory / "tenants")
        self.store = store(self._directory / "index.db")
        self.consumer = Consumer(
            archives=self.archives,
            store=self.store,
            transcripts=dict.fromkeys(STREAMS, transcript or SpelledTranscript()),
            metrics=self.metrics,
            grace_ns=self.grace_ns,
            clocks=Clocks(unix_ns=lambda: 1_000, monotonic_ns=lambda: self.now_ns),
        )

    def stop(self) -> None:
        """As a kill does: nothing is written that was not committed."""
        self.store.close()
        self.archives.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    def apply(self, *arrivals: Arrival) -> Sequence[Notice]:
        """One batch."""
        notices = self.consumer.apply(arrivals)
        self.consumer.check()
        self.notices += notices
        return notices

    def turns(self, session: str = "s", tenant: str = "local") -> list[StoredTurn]:
        return self.archives.of(tenant).turns(session, after=0, limit=1000)

    def texts(
        self, state: TurnState, session: str = "s", tenant: str = "local"
    ) -> list[tuple[int, str]]:
        """(ordinal, "question answer ...") of the turns in a state."""
        return [
            (turn.ordinal, " ".join(said.text for said in turn.messages))
            for turn in self.turns(session, tenant)
            if turn.state is state
        ]

    def archived(self, session: str = "s", tenant: str = "local") -> list[tuple[int, str]]:
        return self.texts(TurnState.ARCHIVED, session, tenant)

    def live(self, session: str = "s", tenant: str = "local") -> list[tuple[int, str]]:
        return self.texts(TurnState.LIVE, session, tenant)

    def outbox(self, tenant: str = "local") -> list[Notice]:
        rows = self.archives.of(tenant).notices(session=None, state=None, after=0, limit=1000)
        return [row.notice for row in rows]

    def search(self, query: str, tenant: str = "local") -> list[SearchHit]:
        return search(self.archives.of(tenant), query, 10)

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[World]:
    """A memory that waits for a microsecond before it archives."""
    made = World(tmp_path, grace_ns=1_000)
    yield made
    made.stop()
