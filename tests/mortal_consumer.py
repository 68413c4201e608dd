"""A consumer that keeps what it did on disk, and may be killed between any two steps.

    python mortal_consumer.py cursor|memory ADDRESS_AS_JSON DIRECTORY STEP NUMBER

With a STEP of `before` or `after` it kills itself, as `kill -9` would, when the
NUMBER-th save of its position is about to happen, or has just happened.  A line
on its standard input is answered with where it stands.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from line_process import say
from shepherd_events.cursor_store import FileCursorStore
from shepherd_events.events import StreamAddress, StreamId
from shepherd_events.follow import FixedDirectory, StreamItem, follow
from shepherd_events.subscriber import Reset, subscribe
from soak.cache_life import digest_json
from stream_process import PATIENCE

JOURNAL = "journal"


class Fate:
    """Ends the process at its appointed step."""

    def __init__(self, step: str, number: int) -> None:
        self._step, self._number = step, number

    def around(self, save: Callable[[], None]) -> None:
        self._number -= 1
        if self._number == 0 and self._step == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        save()
        if self._number == 0 and self._step == "after":
            os.kill(os.getpid(), signal.SIGKILL)


class MortalCursors(FileCursorStore):
    def __init__(self, path: Path, fate: Fate) -> None:
        super().__init__(path)
        self._fate = fate

    def save(self, positions: Any) -> None:
        self._fate.around(lambda: FileCursorStore.save(self, positions))


async def with_cursor(address: StreamAddress, directory: Path, fate: Fate) -> None:
    """Each item's effect is a line in a file; the cursor is the SDK's."""
    cursors = MortalCursors(directory / "cursor", fate)
    at: list[int] = [0, 0]

    async def read() -> None:
        with (directory / JOURNAL).open("a") as journal:
            async for change in follower:
                if isinstance(change, StreamItem):
                    at[:] = change.position.epoch, change.position.seq
                    kind = "reset" if isinstance(change.item, Reset) else "frame"
                    journal.write(f"{at[0]}:{at[1]}:{kind}\n")
                    journal.flush()

    async with follow(
        FixedDirectory([address]), cursors=cursors, save_every_s=0.01, patience=PATIENCE
    ) as follower:
        await _answer(asyncio.create_task(read()), lambda: {"position": at})


async def with_memory(address: StreamAddress, directory: Path, fate: Fate) -> None:
    """The memory service's own consumer, with its own stores."""
    from shepherd_memory.archive.files import SqliteArchives
    from shepherd_memory.arrivals import StreamReplaced
    from shepherd_memory.clocks import Clocks
    from shepherd_memory.consumer import Consumer
    from shepherd_memory.index_store import IndexStore
    from shepherd_memory.metrics import Metrics

    class MortalStore(IndexStore):
        def save(self, *what: Any) -> None:
            fate.around(lambda: IndexStore.save(self, *what))

    consumer = Consumer(
        archives=SqliteArchives(directory / "tenants"),
        store=MortalStore(directory / "index.db"),
        transcripts={},
        metrics=Metrics(),
        grace_ns=0,
        clocks=Clocks(),
    )
    stream = address.stream

    async def read() -> None:
        after = consumer.positions.get(stream)
        async with subscribe(address, after=after, patience=PATIENCE) as subscription:
            async for item in subscription:
                if isinstance(item, Reset):
                    arrival: Any = StreamReplaced(
                        stream, subscription.position, item.blocks, item.reason.value
                    )
                else:
                    arrival = item
                consumer.apply([arrival])

    def where() -> dict[str, Any]:
        at = consumer.positions.get(stream)
        consumer.check()
        digest = () if at is None else consumer.holds(stream, at) or ()
        return {"position": [at.epoch, at.seq] if at else None, "digest": digest_json(digest)}

    await _answer(asyncio.create_task(read()), where)


async def _answer(reading: asyncio.Task[None], where: Callable[[], object]) -> None:
    say({})
    while await asyncio.to_thread(sys.stdin.readline):
        say(where())
        if reading.done():
            reading.result()
    reading.cancel()


async def main(kind: str, address: str, directory: str, step: str, number: str) -> None:
    where = json.loads(address)
    stream = StreamId(**where.pop("stream"))
    run = with_cursor if kind == "cursor" else with_memory
    await run(StreamAddress(stream=stream, **where), Path(directory), Fate(step, int(number)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
