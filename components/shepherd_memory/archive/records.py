"""What a tenant's store keeps, as its readers and writers see it.

Plain frozen records: no SQL, no file, no clock.  Times are nanoseconds since
1970; 0 means that it has not happened.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import NamedTuple, Self

from shepherd_events.events import Notice
from shepherd_memory.eviction import Placement
from shepherd_memory.turns import Said, question_of

STORED_MEMORY_SESSION = ""
"""Session of what was put into memory by hand; no conversation has it, no list of sessions shows it."""


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
class Heard:
    """What became of an acknowledgement."""

    created_unix_ns: int
    """When the notice was written."""
    is_first: bool
    """Whether nobody had acknowledged it before."""


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """One conversation."""

    session: str
    live_turns: int
    archived_turns: int
    last_unix_ns: int


@dataclass(frozen=True, slots=True)
class Fact:
    """One value that a key has or had."""

    key: str
    value: str
    set_unix_ns: int
    ended_unix_ns: int = 0
    """When another value replaced it or it was cleared."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Something from a stream that could not be applied, kept until somebody replays or drops it."""

    name: str
    """Unique in its tenant, such as `worker/0 7:12`: the same poison is kept once."""
    session: str
    """Whose erasure takes it along; empty where it cannot be told."""
    reason: str
    payload: bytes
    """What the stream delivered, unread."""
    created_unix_ns: int
    attempts: int = 1
    """How often it was put, the first time included."""


class TombstoneScope(StrEnum):
    """What was erased."""

    TENANT = "tenant"
    SESSION = "session"
    TURN = "turn"


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What must not come back, however late a stream replays it."""

    scope: TombstoneScope
    name: str
    """The archive id, or the session's SHA-256 in hex; empty for the tenant."""
    erased_unix_ns: int
    """A session's or tenant's turns whose request began later are new and kept."""


@dataclass(frozen=True, slots=True)
class Erased:
    """How many rows of each kind are gone."""

    turns: int = 0
    vectors: int = 0
    notices: int = 0
    facts: int = 0
    """Values, those of the past included."""
    dead_letters: int = 0

    def __add__(self, other: Self) -> Erased:
        return Erased(
            **{
                each.name: getattr(self, each.name) + getattr(other, each.name)
                for each in fields(self)
            }
        )


@dataclass(frozen=True, slots=True)
class ArchiveStats:
    """How much a tenant's store holds."""

    sessions: int
    live_turns: int
    archived_turns: int
    vectors: int
    """Turns with a vector, of whatever model."""
    pending_notices: int
    facts: int
    dead_letters: int
    size_bytes: int
    """On disk, what waits in logs included; 0 where nothing is on a disk."""


@dataclass(frozen=True, slots=True)
class Quota:
    """How much of a tenant's archive is kept; None is without limit."""

    max_bytes: int | None = None
    """Of the turns' text as it is stored, indexes apart."""
    max_turns: int | None = None
    archived_since_unix_ns: int | None = None
    """Turns that were archived and last recalled before this go."""


class Document(NamedTuple):
    """An archived turn as the ranking sees it."""

    doc: int
    """Its number, ascending in the order of archiving; never used twice."""
    session: str
    ordinal: int
    started_unix_ns: int
    num_terms: int


class Postings(NamedTuple):
    """Where a term stands; both arrays are `[num_documents]`."""

    term: str
    docs: array[int]
    """64-bit signed, each once, in any order."""
    occurrences: array[int]
    """64-bit signed; how often it stands in each."""


@dataclass(frozen=True, slots=True)
class StoredVectors:
    """The vectors of one document by one model."""

    doc: int
    vectors: bytes = field(repr=False)
    """float32 in the machine's order, `[n, dimensions]`."""
    number: int = field(default=0, compare=False)
    """Ascending in the order of writing, which the store says; what `after` compares with."""
