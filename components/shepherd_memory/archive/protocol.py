"""What a tenant's store promises, whatever database it is.

A store belongs to one tenant and never sees another's rows.  Its turns are
*live* while their KV may still be served and *archived* afterwards, for good;
only archived turns are searched.  All writes of one batch are one transaction:
a turn's change of state and the notice that tells of it commit together.

    insert, of an id that is there     no effect
    insert, of what was erased         no effect, and the answer says so
    supersede, of an archived turn     no effect
    archive, of an archived turn       no effect, and the answer says so
    acknowledge, a second time         no effect
    store_memory, a second time        no effect
    advance, to an older position      no effect

so that applying the same events twice is harmless.  Methods block.  `writing`,
`erase_*` and `prune` are for one thread at a time, everything else may be called
from any thread.

A *document* is an archived turn in the search index.  The store counts words,
it does not rank: `shepherd_memory.ranking` does, alike for every store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from shepherd_events.events import Notice
from shepherd_events.stream_cursor import Position
from shepherd_memory.archive.records import (
    ArchiveStats,
    DeadLetter,
    Document,
    Erased,
    Fact,
    Heard,
    NoticeState,
    Postings,
    Quota,
    SessionSummary,
    StoredNotice,
    StoredTurn,
    StoredVectors,
    Tombstone,
)
from shepherd_memory.eviction import Placement


class TurnWriter(Protocol):
    """Turns, in an open transaction."""

    def expect(self, archive_ids: Iterable[str]) -> None:
        """Say which turns, and the newest of their sessions, will be asked for: a hint."""
        ...

    def session_turns(self, session: str) -> list[StoredTurn]:
        """All turns of a session, by ordinal and then age."""
        ...

    def turn(self, archive_id: str) -> StoredTurn | None:
        """One turn."""
        ...

    def newest(self, session: str) -> str | None:
        """Archive id of the session's turn with the greatest `age_key`."""
        ...

    def insert(self, turn: StoredTurn) -> bool:
        """Keep a live turn; False where a tombstone forbids it."""
        ...

    def supersede(self, archive_id: str) -> None:
        """Drop a live turn that a longer version of itself replaces."""
        ...

    def place(self, archive_id: str, placement: Placement) -> None:
        """Say where a live turn's KV lies now."""
        ...

    def archive(self, archive_id: str, now_unix_ns: int) -> bool:
        """Make a live turn archived and searchable; says whether it was live."""
        ...

    def store_memory(self, question: str, answer: str, now_unix_ns: int) -> str:
        """Archive an exchange by hand, in `STORED_MEMORY_SESSION`; returns its archive id.

        What was cleared or erased before may be stored again.
        """
        ...

    def clear_memory(self, question: str) -> int:
        """Remove what was stored by hand under exactly this question; returns how many."""
        ...

    def recalled(self, archive_ids: Iterable[str], now_unix_ns: int) -> None:
        """Remember that turns were of use; unknown ids are passed over."""
        ...


class NoticeWriter(Protocol):
    """The outbox, in an open transaction."""

    def add_notice(self, notice: Notice) -> None:
        """Put a notice into the outbox as pending."""
        ...

    def acknowledge(self, notice_id: str) -> Heard | None:
        """Mark a notice as heard; None where there is no such notice."""
        ...


class FactWriter(Protocol):
    """Facts, in an open transaction; a fact's past stays until it is erased."""

    def set_fact(self, key: str, value: str, now_unix_ns: int) -> None:
        """Give a key, spelt exactly so, a value; the same value again changes nothing."""
        ...

    def clear_fact(self, key: str, now_unix_ns: int) -> str | None:
        """End the fact that `Archive.fact` would find; returns its key, None where there is none."""
        ...


class StreamWriter(Protocol):
    """What is kept of streams, in an open transaction."""

    def put_dead_letter(self, letter: DeadLetter) -> None:
        """Keep it; of a name that is there, take over the reason and count the attempt."""
        ...

    def drop_dead_letter(self, name: str) -> bool:
        """Forget it, as after a replay in the same transaction; says whether it was there."""
        ...

    def position(self, name: str) -> Position | None:
        """How far the reader `name` has come in its stream, as of this transaction."""
        ...

    def advance(self, name: str, position: Position) -> bool:
        """Move a reader on; False, and no effect, where it has been as far before."""
        ...


class VectorWriter(Protocol):
    """Vectors, in an open transaction."""

    def put_vectors(self, model: str, vectors: Iterable[StoredVectors]) -> None:
        """Keep documents' vectors in place of any other; documents that are gone are passed over."""
        ...


class ArchiveWriter(TurnWriter, NoticeWriter, FactWriter, StreamWriter, VectorWriter, Protocol):
    """The writes of one open transaction, and the reads that see them."""


class TurnReader(Protocol):
    """Turns, as of the last commit."""

    def live_turns(self) -> Iterator[StoredTurn]:
        """Every live turn."""
        ...

    def sessions(self, *, after: str, limit: int) -> list[SessionSummary]:
        """Sessions by name, those that sort behind `after`."""
        ...

    def session(self, session: str) -> SessionSummary | None:
        """One session."""
        ...

    def turns(self, session: str, *, after: int, limit: int) -> list[StoredTurn]:
        """A session's turns by ordinal, those with a greater ordinal than `after`.

        Turns of the last ordinal are never cut off, even when `limit` is exceeded thereby.
        """
        ...

    def memories(self, *, after: str, limit: int) -> list[StoredTurn]:
        """What was stored by hand, by archive id, those behind `after`."""
        ...


class RecordReader(Protocol):
    """Everything else that can be looked at, as of the last commit."""

    def notices(
        self, *, session: str | None, state: NoticeState | None, after: int, limit: int
    ) -> list[StoredNotice]:
        """Notices by position, those behind `after`; None means any."""
        ...

    def fact(self, key: str) -> Fact | None:
        """The fact that holds now: spelt exactly so, else the latest of those that fold alike."""
        ...

    def facts(self, *, after: str, limit: int) -> list[Fact]:
        """The facts that hold now by key, those behind `after`."""
        ...

    def fact_history(self, key: str, *, limit: int) -> list[Fact]:
        """A key's values, spelt exactly so, latest first."""
        ...

    def dead_letters(self, *, after: str, limit: int) -> list[DeadLetter]:
        """Dead letters by name, those behind `after`."""
        ...

    def dead_letter(self, name: str) -> DeadLetter | None:
        """One dead letter."""
        ...

    def tombstones(self) -> list[Tombstone]:
        """What must not come back, by scope and name."""
        ...

    def stats(self) -> ArchiveStats:
        """How much there is."""
        ...


class LatestReader(Protocol):
    """What happened last, as of the last commit."""

    def latest_sessions(self, *, limit: int) -> list[SessionSummary]:
        """Conversations, those first in which something was said last."""
        ...

    def latest_notices(
        self, *, session: str | None, before: int | None, limit: int
    ) -> list[StoredNotice]:
        """Notices by position, latest first, those ahead of `before`; None means any."""
        ...

    def recalled_unix_ns(self, archive_ids: Iterable[str]) -> dict[str, int]:
        """When turns were of use last; those that never were are missing."""
        ...


class SearchReader(Protocol):
    """What the ranking is made of, as of the last commit."""

    def generation(self) -> int:
        """Another number than before when a document was removed, and whoever remembers must forget."""
        ...

    def documents(self, *, after: int) -> Iterator[Document]:
        """Documents by number, those behind `after`."""
        ...

    def frequencies(self, terms: Iterable[str]) -> dict[str, int]:
        """In how many documents each term stands; only terms that stand in one."""
        ...

    def postings(self, terms: Iterable[str]) -> Iterator[Postings]:
        """Where terms stand; only those that stand somewhere."""
        ...

    def documents_turns(self, docs: Iterable[int]) -> dict[int, StoredTurn]:
        """The turns of documents; those that are gone are missing."""
        ...

    def vectors(self, model: str, *, after: int) -> Iterator[StoredVectors]:
        """The vectors of a model in the order of writing, those behind `after`."""
        ...

    def documents_vectors(self, model: str, docs: Iterable[int]) -> list[StoredVectors]:
        """A model's vectors of documents; those that have none are missing."""
        ...

    def nearest(self, model: str, query: Sequence[float], *, limit: int) -> list[int] | None:
        """At least `limit` documents: the nearest by a model's vectors, and some of the farthest.

        None where the store knows no better way than to compare all vectors.
        """
        ...

    def without_vectors(
        self, model: str, *, after: int, limit: int
    ) -> list[tuple[int, StoredTurn]]:
        """Documents behind `after` that lack this model's vectors, by number."""
        ...


class Upkeep(Protocol):
    """Removal for good, copies.  What an erasure returns is gone from the disk as well."""

    def erase_session(self, session: str, now_unix_ns: int) -> Erased:
        """Remove all of a conversation, and refuse what of it is replayed later."""
        ...

    def erase_turn(self, archive_id: str, now_unix_ns: int) -> Erased:
        """Remove one turn, and refuse it for ever; notices that tell of it go with it."""
        ...

    def erase_fact(self, key: str) -> Erased:
        """Remove all values that a key, spelt exactly so, ever had."""
        ...

    def prune(self, quota: Quota, now_unix_ns: int) -> Erased:
        """Remove archived turns until the quota holds, first those of which least was heard lately.

        Neither live turns nor what was stored by hand are touched.  A pruned turn is not replayed:
        its tombstone stays.
        """
        ...

    def backup(self, path: Path) -> None:
        """Write a copy of the store as of now, which must not exist, while others go on reading and writing."""
        ...


class Archive(TurnReader, RecordReader, LatestReader, SearchReader, Upkeep, Protocol):
    """One tenant's store."""

    @property
    def tenant(self) -> str:
        """Whose store it is."""
        ...

    def writing(self) -> AbstractContextManager[ArchiveWriter]:
        """A transaction: committed durably at the end of the block, undone by an exception."""
        ...

    def close(self) -> None:
        """Let go of the store; idempotent."""
        ...


class Archives(Protocol):
    """All tenants' stores; writer thread only, except `of` for reading."""

    def of(self, tenant: str) -> Archive:
        """The tenant's store, made when missing; the same one for all threads that ask at once.

        Raises:
            NoTenantError: `tenant` is empty, which never means all of them.
        """
        ...

    def batch(self) -> AbstractContextManager[Callable[[str], ArchiveWriter]]:
        """Writers by tenant, of any number of tenants.

        Committed durably at the end of the block, a tenant's writes together; an exception
        undoes what has not been committed yet.
        """
        ...

    def tenants(self) -> Sequence[str]:
        """Every tenant that has a store."""
        ...

    def erase(self, tenant: str, now_unix_ns: int) -> Erased:
        """Remove everything of a tenant, and refuse what is replayed of it later."""
        ...

    def close(self) -> None:
        """Close every store; idempotent."""
        ...
