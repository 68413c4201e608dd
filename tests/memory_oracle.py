"""What a memory holds of the conversations of a worker, and what it should hold."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from shepherd_memory.archive.fake import FakeArchives
from shepherd_memory.archive.protocol import Archives
from shepherd_memory.block_index import BlockIndex
from shepherd_memory.clocks import Clocks
from shepherd_memory.consumer import Consumer
from shepherd_memory.eviction import TurnKey
from shepherd_memory.fake import FakeWorker, SpelledTranscript
from shepherd_memory.metrics import Metrics

SYSTEM = ("system", "You are kind and brief.")
DEADLINE_S = 40


def talk(worker: FakeWorker, session: str) -> None:
    """Two turns of which the first is evicted."""
    said = [SYSTEM, ("user", f"What of {session}?"), ("assistant", f"Much of {session}.")]
    worker.complete(said, session=session)
    longer = [*said, ("user", f"And {session} then?"), ("assistant", "Nothing more.")]
    worker.complete(longer, session=session)
    worker.evict(set(worker.blocks_of(said)[6:]))


def kept(archives: Archives) -> dict[str, Any]:
    """What an archive holds of all turns, and which of them it told of, once each."""
    archive = archives.of("local")
    turns = [
        turn
        for each in archive.sessions(after="", limit=999)
        for turn in archive.turns(each.session, after=0, limit=999)
    ]
    told = archive.notices(session=None, state=None, after=0, limit=999)
    return {
        "turns": sorted((turn.archive_id, turn.state.value) for turn in turns),
        "told": sorted(name for each in told for name in each.notice.archive_ids),
    }


def truth(worker: FakeWorker) -> dict[str, Any]:
    """What one consumer that saw everything makes of it."""
    archives = FakeArchives()

    class Nowhere:
        def load(self) -> tuple[BlockIndex, dict[Any, Any], set[TurnKey]]:
            return BlockIndex(), {}, set()

        def save(self, *_: object) -> None:
            """Nobody starts again."""

        def close(self) -> None:
            """Nothing is open."""

    consumer = Consumer(
        archives=archives,
        store=Nowhere(),
        transcripts={worker.stream: SpelledTranscript()},
        metrics=Metrics(),
        grace_ns=0,
        clocks=Clocks(),
    )
    for frame in worker.frames:
        consumer.apply([frame])
    return kept(archives)


def eventually(is_so: Callable[[], bool], what: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)
