"""What every door to the memory offers, for one tenant.

HTTP, and later MCP and Python, are thin doors to these functions.  Reads run in
threads, each on its own view of the store; the one write, an acknowledgement,
takes its turn in the writer thread.
"""

from __future__ import annotations

import asyncio
import time

from shepherd_memory.archive.protocol import Archive, Archives
from shepherd_memory.archive.records import NoticeState, SessionSummary, StoredNotice, StoredTurn
from shepherd_memory.errors import InvalidParameterError, UnknownItemError
from shepherd_memory.metrics import Metrics
from shepherd_memory.notifier import Bell, rung_within
from shepherd_memory.search import SearchHit, search
from shepherd_memory.writer import WriterThread


class Memory:
    """One tenant's sessions, notices and recall; event loop only."""

    def __init__(
        self, tenant: str, *, archives: Archives, writer: WriterThread, bell: Bell, metrics: Metrics
    ) -> None:
        self._tenant = tenant
        self._archives = archives
        self._writer = writer
        self._bell = bell
        self._metrics = metrics

    async def sessions(self, *, after: str, limit: int) -> list[SessionSummary]:
        """Sessions by name, those that sort behind `after`."""
        archive = await self._archive()
        return await asyncio.to_thread(archive.sessions, after=after, limit=limit)

    async def session(self, session: str) -> SessionSummary:
        """One session.

        Raises:
            UnknownItemError: this tenant has no such session.
        """
        archive = await self._archive()
        found = await asyncio.to_thread(archive.session, session)
        if found is None:
            raise UnknownItemError("session", session)
        return found

    async def turns(self, session: str, *, after: int, limit: int) -> list[StoredTurn]:
        """A session's turns by ordinal, those behind `after`.

        Raises:
            UnknownItemError: this tenant has no such session.
        """
        await self.session(session)
        archive = await self._archive()
        return await asyncio.to_thread(archive.turns, session, after=after, limit=limit)

    async def notices(
        self, *, session: str | None, state: NoticeState | None, after: int, limit: int
    ) -> list[StoredNotice]:
        """Notices in the order of creation, those behind position `after`."""
        archive = await self._archive()
        return await asyncio.to_thread(
            archive.notices, session=session, state=state, after=after, limit=limit
        )

    async def wait_for_notices(
        self, *, session: str | None, after: int, limit: int, timeout_s: float
    ) -> list[StoredNotice]:
        """Pending notices behind `after`, as soon as there are any; none when time is up.

        Says the same notices again until they are acknowledged or `after` moves on.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            ticket = self._bell.ticket()
            found = await self.notices(
                session=session, state=NoticeState.PENDING, after=after, limit=limit
            )
            left_s = deadline - time.monotonic()
            if found or self._bell.closed or left_s <= 0:
                return found
            await rung_within(ticket, left_s)

    async def acknowledge(self, notice_id: str) -> None:
        """Mark a notice as heard; again is harmless.

        Raises:
            UnknownItemError: this tenant has no such notice.
        """
        archive = await self._archive()
        if not await self._writer.run(lambda: _acknowledge(archive, notice_id)):
            raise UnknownItemError("notice", notice_id)
        self._metrics.notices.labels("acknowledged").inc()

    async def search(self, query: str, *, k: int, session: str | None) -> list[SearchHit]:
        """The archived turns that fit a question best, word for word.

        Raises:
            InvalidParameterError: the query is too long, or `k` is out of bounds.
        """
        archive = await self._archive()
        began = time.perf_counter()
        try:
            hits = await asyncio.to_thread(search, archive, query, k, session)
        except InvalidParameterError:
            self._metrics.searches.labels("refused").inc()
            raise
        except Exception:
            self._metrics.searches.labels("error").inc()
            raise
        self._metrics.search_seconds.observe(time.perf_counter() - began)
        self._metrics.search_results.observe(len(hits))
        self._metrics.searches.labels("ok").inc()
        return hits

    @property
    def is_closing(self) -> bool:
        """Nothing will be told any more: whoever waits should go."""
        return self._bell.closed

    async def _archive(self) -> Archive:
        return await asyncio.to_thread(self._archives.of, self._tenant)


def _acknowledge(archive: Archive, notice_id: str) -> bool:
    with archive.writing() as writer:
        return writer.acknowledge(notice_id)
