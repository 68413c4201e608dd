"""Every archived turn of every tenant once, in the order of archiving.

    archive   1 2 3 4 5 ...      documents
    position      ^              how far the tenant has been read, in its own store

The queue is the archive itself: durable, as long as it has to be, and nothing
of it is held in memory.  What a turn gives and the position behind it are one
transaction, so that a turn counts once, also across restarts; a turn that was
erased meanwhile gives nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice

from shepherd_events.stream_cursor import Position
from shepherd_memory.archive.protocol import ArchiveWriter
from shepherd_memory.archive.records import StoredTurn
from shepherd_memory.memory import Means

BATCH = 20
_EPOCH = 1

Keep = Callable[[ArchiveWriter], None]
"""Writes what a turn gave, in the transaction that moves the position on."""


@dataclass(frozen=True, slots=True)
class ArchiveReading:
    """All tenants' turns, one after another; event loop only."""

    name: str
    """Whose position it is."""
    read: Callable[[str, StoredTurn], Awaitable[Keep | None]]
    """From tenant and turn to what is to be written, if anything."""
    means: Means

    async def catch_up(self) -> None:
        """Read everything that no tenant's position covers yet."""
        for tenant in await asyncio.to_thread(self.means.archives.tenants):
            after = await self.means.writer.run(partial(self._position, tenant))
            while batch := await asyncio.to_thread(self._next, tenant, after):
                for doc, turn in batch:
                    await self._take(tenant, doc, turn)
                after = batch[-1][0]

    async def _take(self, tenant: str, doc: int, turn: StoredTurn | None) -> None:
        """What has the ordinal 0 is no turn: summaries, and what was stored by hand."""
        keep = await self.read(tenant, turn) if turn is not None and turn.ordinal else None
        await self.means.writer.run(partial(self._write, tenant, doc, turn, keep))

    def _next(self, tenant: str, after: int) -> list[tuple[int, StoredTurn | None]]:
        archive = self.means.archives.of(tenant)
        docs = [each.doc for each in islice(archive.documents(after=after), BATCH)]
        turns = archive.documents_turns(docs)
        return [(doc, turns.get(doc)) for doc in docs]

    def _position(self, tenant: str) -> int:
        with self.means.archives.of(tenant).writing() as writer:
            at = writer.position(self.name)
        return 0 if at is None else at.seq

    def _write(self, tenant: str, doc: int, turn: StoredTurn | None, keep: Keep | None) -> None:
        with self.means.archives.of(tenant).writing() as writer:
            is_new = writer.advance(self.name, Position(_EPOCH, doc))
            is_there = turn is not None and writer.turn(turn.archive_id) is not None
            if keep is not None and is_new and is_there:
                keep(writer)
