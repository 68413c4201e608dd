"""What every door to the memory offers, for one tenant.

HTTP, MCP, the tools and the command line are thin doors to these functions.
Reads run in threads, each on its own view of the store; writes take their turn
in the writer thread and are durable when they return.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from shepherd_memory.archive.protocol import Archive, Archives, ArchiveWriter
from shepherd_memory.archive.records import (
    ArchiveStats,
    Erased,
    Fact,
    NoticeState,
    SessionSummary,
    StoredNotice,
    StoredTurn,
)
from shepherd_memory.archive.summary import erase_with_summaries
from shepherd_memory.block_index import Holder
from shepherd_memory.clocks import Clocks
from shepherd_memory.errors import InvalidParameterError, TooManyRequestsError, UnknownItemError
from shepherd_memory.making_room import RoomMaker, UnseenTurn
from shepherd_memory.metrics import Metrics
from shepherd_memory.notice_text import NoticeTemplate
from shepherd_memory.notifier import Bell, rung_within
from shepherd_memory.residency import Caches, Residency, residency_of
from shepherd_memory.search import Question, Searcher, SearchHit
from shepherd_memory.upkeep import Recalls
from shepherd_memory.writer import WriterThread
from shepherd_telemetry.spans import NO_SPANS, Spans

EXPORT_PAGE = 200
LOOK_S = 0.5
"""How often whoever watches is told of what the caches did."""
QUIET_S = 15.0
MAX_HISTORY = 100_000
"""Values of one fact that an export holds."""
QUOTA_RETRY_S = 3600.0

T = TypeVar("T")
Record = StoredTurn | StoredNotice | Fact


@dataclass(frozen=True, slots=True)
class Means:
    """What the memories of all tenants share."""

    archives: Archives
    writer: WriterThread
    bell: Bell
    metrics: Metrics
    clocks: Clocks
    template: NoticeTemplate
    replay_dead_letter: Callable[[str, str], bool]
    """Of an archive, by name; in the writer thread.  See `Consumer.replay_dead_letter`."""
    caches: Caches
    follows_streams: Callable[[], bool] = lambda: True
    """False while another replica does; then that one tells the sinks as well."""
    searcher: Searcher = field(default_factory=Searcher)
    recalls: Recalls = field(default_factory=Recalls)
    spans: Spans = NO_SPANS
    max_tenant_bytes: int = 0
    """From this size of its store on a tenant's own writes are refused; 0 never."""

    def in_words(self, row: StoredNotice) -> StoredNotice:
        """A notice as it is told."""
        return replace(row, notice=replace(row.notice, text=self.template.render(row.notice)))


class Memory:
    """One tenant's sessions, notices, facts and recall; event loop only."""

    def __init__(self, tenant: str, means: Means) -> None:
        """`tenant` is the name of its archive, see `TenantSalts.stream_name_of`."""
        self._tenant = tenant
        self._means = means

    async def sessions(self, *, after: str, limit: int) -> list[SessionSummary]:
        """Sessions by name, those that sort behind `after`."""
        return await self._read(lambda archive: archive.sessions(after=after, limit=limit))

    async def session(self, session: str) -> SessionSummary:
        """One session.

        Raises:
            UnknownItemError: this tenant has no such session.
        """
        found = await self._read(lambda archive: archive.session(session))
        return _known("session", session, found)

    async def turns(self, session: str, *, after: int, limit: int) -> list[StoredTurn]:
        """A session's turns by ordinal, those behind `after`.

        Raises:
            UnknownItemError: this tenant has no such session.
        """
        await self.session(session)
        return await self._read(lambda archive: archive.turns(session, after=after, limit=limit))

    async def make_room(
        self, session: str, known: Sequence[str], unseen: Sequence[UnseenTurn]
    ) -> bool:
        """Archive turns that a context window has no room for; says whether any was live.

        Raises:
            UnknownItemError: the session has no turn of such an id.
        """
        now = self._means.clocks.unix_ns()
        notice = await self._write(
            lambda writer: RoomMaker(writer, self._tenant, session, now).archive(known, unseen)
        )
        if notice is None:
            return False
        self._means.metrics.turns_archived.inc(len(notice.archive_ids))
        self._means.metrics.notices.labels("created").inc()
        self._means.bell.ring()
        return True

    async def search(
        self,
        query: str,
        *,
        k: int,
        session: str | None,
        since_unix_ns: int | None = None,
        until_unix_ns: int | None = None,
        min_relevance: float = 0.0,
        neighbours: bool = False,
        is_recall: bool = True,
    ) -> list[SearchHit]:
        """The archived turns that fit a question best, word for word; see `Question`.

        `is_recall` is false where a person only looks: then the turns count as used by nobody.

        Raises:
            InvalidParameterError: the query is too long, or a number is out of bounds.
        """
        means = self._means
        metrics, began = means.metrics, time.perf_counter()
        try:
            question = Question(
                query, k, session, since_unix_ns, until_unix_ns, min_relevance, neighbours
            )
            hits = await self._read(lambda archive: means.searcher.search(archive, question))
        except InvalidParameterError:
            metrics.searches.labels("refused").inc()
            raise
        except Exception:
            metrics.searches.labels("error").inc()
            raise
        metrics.search_seconds.observe(time.perf_counter() - began)
        metrics.search_results.observe(len(hits))
        metrics.searches.labels("ok").inc()
        found = [hit.turn.archive_id for hit in hits] if is_recall else []
        means.recalls.note(self._tenant, found, means.clocks.unix_ns())
        return hits

    async def memories(self, *, after: str, limit: int) -> list[StoredTurn]:
        """What was stored by hand, by archive id, those behind `after`."""
        return await self._read(lambda archive: archive.memories(after=after, limit=limit))

    async def store_memory(self, question: str, answer: str) -> str:
        """Archive an exchange by hand; again is harmless.  Returns its archive id.

        Raises:
            TooManyRequestsError: the tenant's quota is used up.
        """
        await self._check_quota()
        now = self._means.clocks.unix_ns()
        return await self._write(lambda writer: writer.store_memory(question, answer, now))

    async def clear_memory(self, question: str) -> int:
        """Remove what was stored by hand under exactly this question; returns how many."""
        return await self._write(lambda writer: writer.clear_memory(question))

    async def fact(self, key: str) -> Fact:
        """The fact of a key, or of one that differs in case, dashes and underscores only.

        Raises:
            UnknownItemError: there is none.
        """
        return _known("fact", key, await self._read(lambda archive: archive.fact(key)))

    async def facts(self, *, after: str, limit: int) -> list[Fact]:
        """The facts that hold now by key, those behind `after`."""
        return await self._read(lambda archive: archive.facts(after=after, limit=limit))

    async def fact_history(self, key: str, *, limit: int) -> list[Fact]:
        """A key's values, latest first."""
        return await self._read(lambda archive: archive.fact_history(key, limit=limit))

    async def set_fact(self, key: str, value: str) -> None:
        """Give a key a value.

        Raises:
            TooManyRequestsError: the tenant's quota is used up.
        """
        await self._check_quota()
        now = self._means.clocks.unix_ns()
        await self._write(lambda writer: writer.set_fact(key, value, now))

    async def clear_fact(self, key: str) -> str:
        """End a fact; its past stays until `erase_fact`.  Returns its key as it was set.

        Raises:
            UnknownItemError: there is none.
        """
        now = self._means.clocks.unix_ns()
        cleared = await self._write(lambda writer: writer.clear_fact(key, now))
        return _known("fact", key, cleared)

    async def notices(
        self, *, session: str | None, state: NoticeState | None, after: int, limit: int
    ) -> list[StoredNotice]:
        """Notices in the order of creation, those behind position `after`."""
        found = await self._read(
            lambda archive: archive.notices(session=session, state=state, after=after, limit=limit)
        )
        return [self._means.in_words(row) for row in found]

    async def wait_for_notices(
        self, *, session: str | None, after: int, limit: int, timeout_s: float
    ) -> list[StoredNotice]:
        """Pending notices behind `after`, as soon as there are any; none when time is up.

        Says the same notices again until they are acknowledged or `after` moves on.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            ticket = self._means.bell.ticket()
            found = await self.notices(
                session=session, state=NoticeState.PENDING, after=after, limit=limit
            )
            left_s = deadline - time.monotonic()
            if found or self._means.bell.closed or left_s <= 0:
                return found
            await rung_within(ticket, left_s)

    async def acknowledge(self, notice_id: str) -> None:
        """Mark a notice as heard; again is harmless.

        Raises:
            UnknownItemError: this tenant has no such notice.
        """
        heard = await self._write(lambda writer: writer.acknowledge(notice_id))
        if heard is None:
            raise UnknownItemError("notice", notice_id)
        if heard.is_first:
            waited_ns = max(0, self._means.clocks.unix_ns() - heard.created_unix_ns)
            self._means.metrics.notices.labels("acknowledged").inc()
            self._means.metrics.notify_seconds.observe(waited_ns / 1e9)

    async def erase_session(self, session: str) -> Erased:
        """Remove all of a conversation for good; what is replayed of it later is refused."""
        now = self._means.clocks.unix_ns()
        return await self._upkeep(lambda archive: archive.erase_session(session, now))

    async def erase_turn(self, archive_id: str) -> Erased:
        """Remove one turn for good, and its session's summaries, which may tell of it."""
        now = self._means.clocks.unix_ns()
        return await self._upkeep(lambda archive: erase_with_summaries(archive, archive_id, now))

    async def erase_fact(self, key: str) -> Erased:
        """Remove all values that a key, spelt exactly so, ever had."""
        return await self._upkeep(lambda archive: archive.erase_fact(key))

    async def erase_all(self) -> Erased:
        """Remove everything of the tenant for good."""
        means, now = self._means, self._means.clocks.unix_ns()
        erased = await means.writer.run(lambda: means.archives.erase(self._tenant, now))
        means.searcher.forget(self._tenant)
        return erased

    async def latest_sessions(self, *, limit: int) -> list[SessionSummary]:
        """Conversations, those first in which something was said last."""
        return await self._read(lambda archive: archive.latest_sessions(limit=limit))

    async def latest_notices(
        self, *, session: str | None, before: int | None, limit: int
    ) -> list[StoredNotice]:
        """Notices, latest first, those ahead of position `before`."""
        found = await self._read(
            lambda archive: archive.latest_notices(session=session, before=before, limit=limit)
        )
        return [self._means.in_words(row) for row in found]

    async def recalled_unix_ns(self, archive_ids: Sequence[str]) -> dict[str, int]:
        """When turns were of use last, by archive id; those that never were are missing."""
        noted = self._means.recalls.by_tenant.get(self._tenant, {})
        stored = await self._read(lambda archive: archive.recalled_unix_ns(archive_ids))
        return stored | {each: noted[each] for each in archive_ids if each in noted}

    async def residency(self, turns: Sequence[StoredTurn]) -> list[Residency]:
        """Where the turns' blocks lie now, turn by turn."""
        means = self._means
        hashes = [turn.placement.block_hashes for turn in turns]
        return await means.writer.run(
            lambda: [residency_of(each, means.caches.holders) for each in hashes]
        )

    async def resident_blocks(self) -> Mapping[Holder, int]:
        """How many blocks each tier of each worker holds, of all tenants together."""
        return await self._means.writer.run(self._means.caches.resident)

    async def changes(self) -> AsyncGenerator[bool]:
        """True when a cache or the archive may have changed, False when none has for `QUIET_S`.

        Ends when the service does; of changes in quick succession the last is told.
        """
        means, quiet_s = self._means, 0.0
        ticket, seen = means.bell.ticket(), means.caches.positions
        while not means.bell.closed:
            has_rung = await rung_within(ticket, LOOK_S)
            ticket, before, seen = means.bell.ticket(), seen, means.caches.positions
            quiet_s += LOOK_S
            if has_rung or seen != before or quiet_s >= QUIET_S:
                yield has_rung or seen != before
                quiet_s = 0.0

    async def stats(self) -> ArchiveStats:
        """How much the tenant's store holds."""
        return await self._read(lambda archive: archive.stats())

    async def export(self, session: str | None = None) -> AsyncGenerator[Record]:
        """Everything that is kept of the tenant, or of one conversation: turns, notices, facts.

        What changes meanwhile may be in it or not; nothing else is left out.

        Raises:
            UnknownItemError: this tenant has no such session.
        """
        names = [session] if session is not None else [each async for each in self._names()]
        for name in names:
            after, page = -1, await self.turns(name, after=-1, limit=EXPORT_PAGE)
            while page:
                for turn in page:
                    yield turn
                after = page[-1].ordinal
                page = await self.turns(name, after=after, limit=EXPORT_PAGE)
        async for notice in self._all_notices(session):
            yield notice
        if session is None:
            async for record in self._by_hand():
                yield record

    @property
    def is_closing(self) -> bool:
        """Nothing will be told any more: whoever waits should go."""
        return self._means.bell.closed

    async def _names(self) -> AsyncIterator[str]:
        page = await self.sessions(after="", limit=EXPORT_PAGE)
        while page:
            for each in page:
                yield each.session
            page = await self.sessions(after=page[-1].session, limit=EXPORT_PAGE)

    async def _all_notices(self, session: str | None) -> AsyncIterator[StoredNotice]:
        after = 0
        while page := await self.notices(
            session=session, state=None, after=after, limit=EXPORT_PAGE
        ):
            for notice in page:
                yield notice
            after = page[-1].position

    async def _by_hand(self) -> AsyncIterator[StoredTurn | Fact]:
        stored = await self.memories(after="", limit=EXPORT_PAGE)
        while stored:
            for turn in stored:
                yield turn
            stored = await self.memories(after=stored[-1].archive_id, limit=EXPORT_PAGE)
        facts = await self.facts(after="", limit=EXPORT_PAGE)
        while facts:
            for fact in facts:
                for value in await self.fact_history(fact.key, limit=MAX_HISTORY):
                    yield value
            facts = await self.facts(after=facts[-1].key, limit=EXPORT_PAGE)

    async def _check_quota(self) -> None:
        """Turns make room by themselves; what callers write must be refused."""
        limit = self._means.max_tenant_bytes
        if limit and (await self.stats()).size_bytes >= limit:
            raise TooManyRequestsError(
                QUOTA_RETRY_S, f"the tenant's quota of {limit} bytes is full"
            )

    async def _read(self, function: Callable[[Archive], T]) -> T:
        return await asyncio.to_thread(lambda: function(self._means.archives.of(self._tenant)))

    async def _write(self, function: Callable[[ArchiveWriter], T]) -> T:
        def write() -> T:
            with self._means.archives.of(self._tenant).writing() as writer:
                return function(writer)

        return await self._means.writer.run(write)

    async def _upkeep(self, function: Callable[[Archive], Erased]) -> Erased:
        means = self._means
        erased = await means.writer.run(lambda: function(means.archives.of(self._tenant)))
        means.searcher.forget(self._tenant)
        return erased


def _known(kind: str, name: str, found: T | None) -> T:
    if found is None:
        raise UnknownItemError(kind, name)
    return found
