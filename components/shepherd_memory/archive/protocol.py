"""What a tenant's store promises, whatever database it is.

A store belongs to one tenant and never sees another's rows.  Its turns are
*live* while their KV may still be served and *archived* afterwards, for good;
only archived turns are searched.  All writes of one batch are one transaction:
a turn's change of state and the notice that tells of it commit together.

    insert, of an id that is there     no effect
    supersede, of an archived turn     no effect
    archive, of an archived turn       no effect, and the answer says so
    acknowledge, a second time         no effect

so that applying the same events twice is harmless.  Methods block; `writing` is
for one thread at a time, everything else may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from shepherd_events.events import Notice
from shepherd_memory.eviction import Placement
from shepherd_memory.turns import Said, question_of


class TurnState(StrEnum):
    """How far a turn has come."""

    LIVE = "live"
    ARCHIVED = "archived"


class NoticeState(StrEnum):
    """How far a notice has come."""

    PENDING = "pending"
    ACKNOWLEDGED = "acknowledged"


@dataclass(frozen=True, slots=True)
class StoredTurn:
    """One turn as its tenant's store has it."""

    archive_id: str
    session: str
    ordinal: int
    """Number of user messages so far, from 1."""
    digest: str
    messages: tuple[Said, ...]
    placement: Placement
    request_id: str
    """The request that ended the turn; empty where only later requests told of it."""
    started_unix_ns: int
    """When the request that first told of the turn began."""
    state: TurnState = TurnState.LIVE
    archived_unix_ns: int = 0

    @property
    def question(self) -> str:
        """The user's words; empty where they are not known."""
        return question_of(self.messages)

    @property
    def age_key(self) -> tuple[int, int, str]:
        """Orders a session's turns; the greatest is the newest, in whatever order they came."""
        return (self.started_unix_ns, self.ordinal, self.archive_id)


@dataclass(frozen=True, slots=True)
class StoredNotice:
    """One row of the outbox."""

    position: int
    """Ascending in the order of creation; what `after` compares with."""
    notice: Notice
    state: NoticeState


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """One conversation."""

    session: str
    live_turns: int
    archived_turns: int
    last_unix_ns: int


@dataclass(frozen=True, slots=True)
class SearchHit:
    """An archived turn and how well it fits."""

    turn: StoredTurn
    score: float
    """BM25, higher is better; comparable within one answer only."""


class ArchiveWriter(Protocol):
    """The writes of one open transaction, and the reads that see them."""

    def session_turns(self, session: str) -> list[StoredTurn]:
        """All turns of a session, by ordinal and then age."""
        ...

    def turn(self, archive_id: str) -> StoredTurn | None:
        """One turn."""
        ...

    def newest(self, session: str) -> str | None:
        """Archive id of the session's turn with the greatest `age_key`."""
        ...

    def insert(self, turn: StoredTurn) -> None:
        """Keep a live turn."""
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

    def add_notice(self, notice: Notice) -> None:
        """Put a notice into the outbox as pending."""
        ...

    def acknowledge(self, notice_id: str) -> bool:
        """Mark a notice as heard; says whether there is such a notice."""
        ...


class Archive(Protocol):
    """One tenant's store."""

    @property
    def tenant(self) -> str:
        """Whose store it is."""
        ...

    def writing(self) -> AbstractContextManager[ArchiveWriter]:
        """A transaction: committed durably at the end of the block, undone by an exception."""
        ...

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

    def notices(
        self, *, session: str | None, state: NoticeState | None, after: int, limit: int
    ) -> list[StoredNotice]:
        """Notices by position, those behind `after`; None means any."""
        ...

    def search(self, words: Sequence[str], *, session: str | None, limit: int) -> list[SearchHit]:
        """Archived turns that contain any of the words, best first, newer first among equals."""
        ...

    def close(self) -> None:
        """Let go of the store; idempotent."""
        ...


class Archives(Protocol):
    """All tenants' stores; writer thread only, except `of` for reading."""

    def of(self, tenant: str) -> Archive:
        """The tenant's store, made when missing."""
        ...

    def tenants(self) -> Iterable[str]:
        """Every tenant that has a store."""
        ...

    def close(self) -> None:
        """Close every store; idempotent."""
        ...
