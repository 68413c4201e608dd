"""Stores in memory that keep every promise of `Archive`: for tests, and to read what it means.

A transaction works on a copy of the tables, which replaces them at its end.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from shepherd_memory.archive.batches import tenant_by_tenant
from shepherd_memory.archive.fake_tables import FakeWriter, Tables
from shepherd_memory.archive.protocol import ArchiveWriter
from shepherd_memory.archive.records import (
    STORED_MEMORY_SESSION,
    ArchiveStats,
    DeadLetter,
    Document,
    Erased,
    Fact,
    NoticeState,
    Postings,
    Quota,
    SessionSummary,
    StoredNotice,
    StoredTurn,
    StoredVectors,
    Tombstone,
    TombstoneScope,
    TurnState,
)
from shepherd_memory.archive.sqlite_erasure import session_name
from shepherd_memory.archive.sqlite_rows import packed
from shepherd_memory.errors import NoTenantError


class FakeArchive:
    """`Archive` over tables that outlive it."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self._tables = Tables()

    @contextmanager
    def writing(self) -> Iterator[FakeWriter]:
        """See `Archive.writing`."""
        tables = self._tables.copy()
        yield FakeWriter(tables, self.tenant)
        self._tables = tables

    def close(self) -> None:
        """See `Archive.close`."""

    def live_turns(self) -> Iterator[StoredTurn]:
        """See `TurnReader.live_turns`."""
        turns = self._tables.turns.values()
        return iter([turn for turn in turns if turn.state is TurnState.LIVE])

    def sessions(self, *, after: str, limit: int) -> list[SessionSummary]:
        """See `TurnReader.sessions`."""
        names = sorted({turn.session for turn in self._tables.turns.values()})
        found = [self.session(name) for name in names if name > after]
        return [each for each in found if each is not None][:limit]

    def session(self, session: str) -> SessionSummary | None:
        """See `TurnReader.session`."""
        turns = [turn for turn in self._tables.turns.values() if turn.session == session]
        if not turns:
            return None
        states = Counter(turn.state for turn in turns)
        last = max(turn.started_unix_ns for turn in turns)
        return SessionSummary(session, states[TurnState.LIVE], states[TurnState.ARCHIVED], last)

    def turns(self, session: str, *, after: int, limit: int) -> list[StoredTurn]:
        """See `TurnReader.turns`."""
        turns = FakeWriter(self._tables, self.tenant).session_turns(session)
        found = [turn for turn in turns if turn.ordinal > after]
        last = found[limit - 1].ordinal if len(found) >= limit else None
        return [turn for turn in found if last is None or turn.ordinal <= last]

    def memories(self, *, after: str, limit: int) -> list[StoredTurn]:
        """See `TurnReader.memories`."""
        stored = FakeWriter(self._tables, self.tenant).session_turns(STORED_MEMORY_SESSION)
        by_id = sorted(stored, key=lambda turn: turn.archive_id)
        return [turn for turn in by_id if turn.archive_id > after][:limit]

    def notices(
        self, *, session: str | None, state: NoticeState | None, after: int, limit: int
    ) -> list[StoredNotice]:
        """See `RecordReader.notices`."""
        return [
            row
            for row in self._tables.notices.values()
            if row.position > after
            and session in {None, row.notice.session_id}
            and state in {None, row.state}
        ][:limit]

    def fact(self, key: str) -> Fact | None:
        """See `RecordReader.fact`."""
        return self._tables.fact(key)

    def facts(self, *, after: str, limit: int) -> list[Fact]:
        """See `RecordReader.facts`."""
        now = [fact for fact in self._tables.facts if not fact.ended_unix_ns and fact.key > after]
        return sorted(now, key=lambda fact: fact.key)[:limit]

    def fact_history(self, key: str, *, limit: int) -> list[Fact]:
        """See `RecordReader.fact_history`."""
        return [fact for fact in reversed(self._tables.facts) if fact.key == key][:limit]

    def dead_letters(self, *, after: str, limit: int) -> list[DeadLetter]:
        """See `RecordReader.dead_letters`."""
        letters = sorted(self._tables.dead_letters.items())
        return [letter for name, letter in letters if name > after][:limit]

    def dead_letter(self, name: str) -> DeadLetter | None:
        """See `RecordReader.dead_letter`."""
        return self._tables.dead_letters.get(name)

    def tombstones(self) -> list[Tombstone]:
        """See `RecordReader.tombstones`."""
        return [tomb for _, tomb in sorted(self._tables.tombstones.items())]

    def stats(self) -> ArchiveStats:
        """See `RecordReader.stats`."""
        tables = self._tables
        states = Counter(turn.state for turn in tables.turns.values())
        return ArchiveStats(
            sessions=len({turn.session for turn in tables.turns.values()} - {""}),
            live_turns=states[TurnState.LIVE],
            archived_turns=states[TurnState.ARCHIVED],
            vectors=len(tables.vectors),
            pending_notices=sum(
                row.state is NoticeState.PENDING for row in tables.notices.values()
            ),
            facts=sum(not fact.ended_unix_ns for fact in tables.facts),
            dead_letters=len(tables.dead_letters),
            size_bytes=0,
        )

    def latest_sessions(self, *, limit: int) -> list[SessionSummary]:
        """See `LatestReader.latest_sessions`."""
        found = self.sessions(after=STORED_MEMORY_SESSION, limit=len(self._tables.turns))
        return sorted(found, key=lambda each: (-each.last_unix_ns, each.session))[:limit]

    def latest_notices(
        self, *, session: str | None, before: int | None, limit: int
    ) -> list[StoredNotice]:
        """See `LatestReader.latest_notices`."""
        found = [
            row
            for row in self._tables.notices.values()
            if session in {None, row.notice.session_id}
            and (before is None or row.position < before)
        ]
        return sorted(found, key=lambda row: -row.position)[:limit]

    def recalled_unix_ns(self, archive_ids: Iterable[str]) -> dict[str, int]:
        """See `LatestReader.recalled_unix_ns`."""
        used = self._tables.used
        return {each: used[each] for each in archive_ids if each in used}

    def generation(self) -> int:
        """See `SearchReader.generation`."""
        return self._tables.numbers["generation"]

    def documents(self, *, after: int) -> Iterator[Document]:
        """See `SearchReader.documents`."""
        tables = self._tables
        for doc, archive_id in tables.docs.items():
            turn = tables.turns[archive_id]
            if doc > after:
                size = tables.terms[doc].total()
                yield Document(doc, turn.session, turn.ordinal, turn.started_unix_ns, size)

    def frequencies(self, terms: Iterable[str]) -> dict[str, int]:
        """See `SearchReader.frequencies`."""
        return {each.term: len(each.docs) for each in self.postings(terms)}

    def postings(self, terms: Iterable[str]) -> Iterator[Postings]:
        """See `SearchReader.postings`."""
        rows = list(self._tables.terms.items())
        for term in terms:
            found = {doc: counted[term] for doc, counted in rows if term in counted}
            if found:
                yield Postings(term, array("q", found), array("q", found.values()))

    def documents_turns(self, docs: Iterable[int]) -> dict[int, StoredTurn]:
        """See `SearchReader.documents_turns`."""
        tables = self._tables
        return {doc: tables.turns[tables.docs[doc]] for doc in docs if doc in tables.docs}

    def vectors(self, model: str, *, after: int) -> Iterator[StoredVectors]:
        """See `SearchReader.vectors`."""
        rows = self._tables.vectors.values()
        return iter([row for named, row in rows if named == model and row.number > after])

    def documents_vectors(self, model: str, docs: Iterable[int]) -> list[StoredVectors]:
        """See `SearchReader.documents_vectors`."""
        known = self._tables.vectors
        found = [known[doc] for doc in sorted(set(docs)) if doc in known]
        return [row for of, row in found if of == model]

    def nearest(self, model: str, query: Sequence[float], *, limit: int) -> None:
        """See `SearchReader.nearest`; all are compared."""

    def without_vectors(
        self, model: str, *, after: int, limit: int
    ) -> list[tuple[int, StoredTurn]]:
        """See `SearchReader.without_vectors`."""
        tables = self._tables
        having = {doc for doc, (named, _) in tables.vectors.items() if named == model}
        lacking = [doc for doc in tables.docs if doc not in having and doc > after][:limit]
        return [(doc, tables.turns[tables.docs[doc]]) for doc in lacking]

    def erase_session(self, session: str, now_unix_ns: int) -> Erased:
        """See `Upkeep.erase_session`."""
        tables = self._tables.copy()
        doomed = [turn.archive_id for turn in tables.turns.values() if turn.session == session]
        for archive_id in doomed:
            tables.bury(TombstoneScope.TURN, archive_id, now_unix_ns)
        tables.bury(TombstoneScope.SESSION, session_name(session), now_unix_ns)
        erased = tables.remove(doomed)
        letters = [each.name for each in tables.dead_letters.values() if each.session == session]
        for name in letters:
            del tables.dead_letters[name]
        notices = tables.remove_notices(
            row for row, each in tables.notices.items() if each.notice.session_id == session
        )
        self._tables = tables
        return erased + Erased(notices=notices, dead_letters=len(letters))

    def erase_turn(self, archive_id: str, now_unix_ns: int) -> Erased:
        """See `Upkeep.erase_turn`."""
        return self._bury([archive_id], now_unix_ns)

    def erase_fact(self, key: str) -> Erased:
        """See `Upkeep.erase_fact`."""
        tables = self._tables.copy()
        tables.facts = [fact for fact in tables.facts if fact.key != key]
        erased = Erased(facts=len(self._tables.facts) - len(tables.facts))
        self._tables = tables
        return erased

    def erase_all(self, now_unix_ns: int) -> Erased:
        """Everything, but for a tombstone."""
        old, self._tables = self._tables, Tables()
        self._tables.numbers["generation"] = old.numbers["generation"] + 1
        self._tables.bury(TombstoneScope.TENANT, "", now_unix_ns)
        return Erased(
            turns=len(old.turns),
            vectors=len(old.vectors),
            notices=len(old.notices),
            facts=len(old.facts),
            dead_letters=len(old.dead_letters),
        )

    def prune(self, quota: Quota, now_unix_ns: int) -> Erased:
        """See `Upkeep.prune`."""
        surplus, size = [], 0
        for number, (heard, turn) in enumerate(self._lately_heard(), start=1):
            size += len(packed(turn.messages))
            if (
                (quota.max_turns is not None and number > quota.max_turns)
                or (quota.max_bytes is not None and size > quota.max_bytes)
                or heard < (quota.archived_since_unix_ns or 0)
            ):
                surplus.append(turn.archive_id)
        return self._bury(surplus, now_unix_ns) if surplus else Erased()

    def backup(self, path: Path) -> None:
        """See `Upkeep.backup`; the words of all turns."""
        with path.open("x") as file:
            json.dump([packed(turn.messages) for turn in self._tables.turns.values()], file)

    def _bury(self, archive_ids: list[str], now_unix_ns: int) -> Erased:
        tables = self._tables.copy()
        for archive_id in archive_ids:
            tables.bury(TombstoneScope.TURN, archive_id, now_unix_ns)
        erased = tables.remove(archive_ids)
        self._tables = tables
        return erased

    def _lately_heard(self) -> list[tuple[int, StoredTurn]]:
        """The archived turns of conversations, and when something was heard of them, latest first."""
        tables = self._tables
        rows = [
            (max(turn.archived_unix_ns, tables.used.get(turn.archive_id, 0)), row, turn)
            for row, turn in enumerate(tables.turns.values())
            if turn.state is TurnState.ARCHIVED and turn.session != STORED_MEMORY_SESSION
        ]
        rows.sort(key=lambda each: each[:2], reverse=True)
        return [(heard, turn) for heard, _, turn in rows]


class FakeArchives:
    """`Archives` over a dictionary, which stands for the disk."""

    def __init__(self, disk: dict[str, FakeArchive] | None = None) -> None:
        self._disk = {} if disk is None else disk

    def of(self, tenant: str) -> FakeArchive:
        """See `Archives.of`."""
        if not tenant:
            raise NoTenantError
        return self._disk.setdefault(tenant, FakeArchive(tenant))

    def batch(self) -> AbstractContextManager[Callable[[str], ArchiveWriter]]:
        """See `Archives.batch`."""
        return tenant_by_tenant(self.of)

    def tenants(self) -> list[str]:
        """See `Archives.tenants`."""
        return sorted(self._disk)

    def erase(self, tenant: str, now_unix_ns: int) -> Erased:
        """See `Archives.erase`."""
        return self.of(tenant).erase_all(now_unix_ns)

    def close(self) -> None:
        """See `Archives.close`."""
