"""What requests and answers look like; the OpenAPI document is made of these.

Times are nanoseconds since 1970.  Answers grow by fields, they never lose one.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from shepherd_memory.archive.records import (
    ArchiveStats,
    Erased,
    Fact,
    NoticeState,
    SessionSummary,
    StoredNotice,
    StoredTurn,
    TurnState,
)
from shepherd_memory.making_room import UnseenTurn
from shepherd_memory.search import SearchHit
from shepherd_memory.turns import Said

MAX_TEXT_CHARS = 65_536

Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SessionModel(BaseModel):
    """One conversation."""

    session: str
    live_turns: int
    archived_turns: int
    last_unix_ns: int

    @classmethod
    def of(cls, summary: SessionSummary) -> SessionModel:
        """As it is answered."""
        return cls(**asdict(summary))


class SessionPage(BaseModel):
    """Sessions by name."""

    sessions: list[SessionModel]
    next: str | None


class MessageModel(BaseModel):
    """What somebody said, word for word."""

    role: str
    content: str


class TurnModel(BaseModel):
    """One user message with everything up to the next one."""

    archive_id: str
    session: str
    ordinal: int
    state: TurnState
    messages: list[MessageModel]
    started_unix_ns: int
    archived_unix_ns: int | None

    @classmethod
    def of(cls, turn: StoredTurn) -> TurnModel:
        """As it is answered."""
        return cls(**_turn(turn))


class TurnPage(BaseModel):
    """Turns by ordinal."""

    turns: list[TurnModel]
    next: int | None


class MemoryPage(BaseModel):
    """What was stored by hand, by archive id."""

    memories: list[TurnModel]
    next: str | None


class SpanModel(BaseModel):
    """Characters `start` to before `end` of a message, counted in Unicode code points."""

    start: int
    end: int


class HitModel(TurnModel):
    """A turn that was found."""

    score: float
    """Higher is better; comparable within one answer only."""
    relevance: float
    """Which share of the question's information stands in the turn and around it, from 0 to 1."""
    highlights: list[list[SpanModel]]
    """The words that were asked for, message by message, in their order."""
    before: TurnModel | None
    """The archived turn before it in its session, where neighbours were asked for."""
    after: TurnModel | None

    @classmethod
    def of_hit(cls, hit: SearchHit) -> HitModel:
        """As it is answered."""
        return cls(
            score=hit.score,
            relevance=hit.relevance,
            highlights=[
                [SpanModel(start=span.start, end=span.end) for span in spans]
                for spans in hit.highlights
            ],
            before=None if hit.before is None else TurnModel.of(hit.before),
            after=None if hit.after is None else TurnModel.of(hit.after),
            **_turn(hit.turn),
        )


class UnseenTurnModel(_Request):
    """A turn that only its client has."""

    ordinal: int = Field(ge=1, le=1_000_000_000)
    """Number of user messages so far, from 1."""
    messages: list[MessageModel] = Field(min_length=1, max_length=1000)

    def as_turn(self) -> UnseenTurn:
        """As it is kept."""
        said = tuple(Said(each.role, each.content) for each in self.messages)
        return UnseenTurn(self.ordinal, said)


class RoomRequest(_Request):
    """Turns that a context window has no room for."""

    archive_ids: list[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field(
        default_factory=list, max_length=10_000
    )
    unseen: list[UnseenTurnModel] = Field(default_factory=list, max_length=10_000)
    """Those that no worker was ever shown."""


class RoomMade(BaseModel):
    """What came of it."""

    archived: bool
    """Whether a turn left the live ones, and a notice was made."""


class SearchAnswer(BaseModel):
    """Archived turns, best first."""

    hits: list[HitModel]


class ContextAnswer(BaseModel):
    """Text to put before the newest user message, or nothing."""

    text: str
    archive_ids: list[str]
    """The turns that it quotes."""


class NoticeModel(BaseModel):
    """What a session should be told."""

    notice_id: str
    position: int
    state: NoticeState
    session: str
    turns: list[int]
    archive_ids: list[str]
    topic: str
    text: str
    created_unix_ns: int

    @classmethod
    def of(cls, row: StoredNotice) -> NoticeModel:
        """As it is answered."""
        notice = row.notice
        return cls(
            notice_id=notice.notice_id,
            position=row.position,
            state=row.state,
            session=notice.session_id,
            turns=list(notice.turns),
            archive_ids=list(notice.archive_ids),
            topic=notice.topic,
            text=notice.text,
            created_unix_ns=notice.created_unix_ns,
        )


class NoticePage(BaseModel):
    """Notices in the order of their creation."""

    notices: list[NoticeModel]
    next: int | None


class FactModel(BaseModel):
    """One value that a key has or had."""

    key: str
    value: str
    set_unix_ns: int
    ended_unix_ns: int | None

    @classmethod
    def of(cls, fact: Fact) -> FactModel:
        """As it is answered."""
        return cls(
            key=fact.key,
            value=fact.value,
            set_unix_ns=fact.set_unix_ns,
            ended_unix_ns=fact.ended_unix_ns or None,
        )


class FactPage(BaseModel):
    """Facts that hold now, by key."""

    facts: list[FactModel]
    next: str | None


class FactHistory(BaseModel):
    """A key's values, latest first."""

    facts: list[FactModel]


class FactValue(_Request):
    """What a key is to mean."""

    value: Text


class MemoryRequest(_Request):
    """An exchange to remember."""

    question: Text
    answer: Text


class ClearRequest(_Request):
    """What is no longer to be remembered."""

    question: Text


class MemoryStored(BaseModel):
    """Where an exchange is."""

    archive_id: str


class Removed(BaseModel):
    """How much is gone."""

    removed: int


class ErasedModel(BaseModel):
    """How many rows of each kind are gone."""

    turns: int
    vectors: int
    notices: int
    facts: int
    dead_letters: int

    @classmethod
    def of(cls, erased: Erased) -> ErasedModel:
        """As it is answered."""
        return cls(**asdict(erased))

    @property
    def total(self) -> int:
        """Of all kinds."""
        return self.turns + self.vectors + self.notices + self.facts + self.dead_letters


class StatsModel(BaseModel):
    """How much a tenant's archive holds."""

    sessions: int
    live_turns: int
    archived_turns: int
    vectors: int
    pending_notices: int
    facts: int
    dead_letters: int
    size_bytes: int

    @classmethod
    def of(cls, stats: ArchiveStats) -> StatsModel:
        """As it is answered."""
        return cls(**asdict(stats))


class ToolCall(_Request):
    """A call as a model makes it."""

    arguments: dict[str, Any] = Field(default_factory=dict)


class ToolAnswer(BaseModel):
    """What the model is told."""

    content: str


class FunctionModel(BaseModel):
    """What a model may call, in OpenAI's form."""

    name: str
    description: str
    parameters: dict[str, Any]


class ToolModel(BaseModel):
    """An entry of a chat request's `tools`."""

    type: Literal["function"] = "function"
    function: FunctionModel


class ToolList(BaseModel):
    """The memory's tools."""

    tools: list[ToolModel]


def _turn(turn: StoredTurn) -> dict[str, Any]:
    return {
        "archive_id": turn.archive_id,
        "session": turn.session,
        "ordinal": turn.ordinal,
        "state": turn.state,
        "messages": [
            MessageModel(role=said.role, content=_encodable(said.text)) for said in turn.messages
        ],
        "started_unix_ns": turn.started_unix_ns,
        "archived_unix_ns": turn.archived_unix_ns or None,
    }


def _encodable(text: str) -> str:
    """Half a character, which no JSON can carry, becomes a question mark."""
    return text.encode("utf-8", "replace").decode()
