"""The tables of a store in memory, and the writes of one transaction on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace

from shepherd_events.events import Notice
from shepherd_events.stream_cursor import Position
from shepherd_memory.analysis import document_terms
from shepherd_memory.archive.records import (
    STORED_MEMORY_SESSION,
    DeadLetter,
    Erased,
    Fact,
    Heard,
    NoticeState,
    StoredNotice,
    StoredTurn,
    StoredVectors,
    Tombstone,
    TombstoneScope,
    TurnState,
)
from shepherd_memory.archive.sqlite_erasure import session_name
from shepherd_memory.archive.stored_memory import stored_memory
from shepherd_memory.eviction import Placement
from shepherd_memory.facts import fold_key


@dataclass(slots=True)
class Tables:
    """What a tenant has; records are frozen, so that a shallow copy is a copy."""

    turns: dict[str, StoredTurn] = field(default_factory=dict)
    docs: dict[int, str] = field(default_factory=dict)
    """Archive ids by document."""
    terms: dict[int, Counter[str]] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    notices: dict[int, StoredNotice] = field(default_factory=dict)
    facts: list[Fact] = field(default_factory=list)
    dead_letters: dict[str, DeadLetter] = field(default_factory=dict)
    positions: dict[str, Position] = field(default_factory=dict)
    tombstones: dict[tuple[TombstoneScope, str], Tombstone] = field(default_factory=dict)
    vectors: dict[int, tuple[str, StoredVectors]] = field(default_factory=dict)
    numbers: Counter[str] = field(default_factory=Counter)
    """The last document, notice, vectors and generation."""

    def copy(self) -> Tables:
        """Another with the same rows."""
        return Tables(**{each.name: getattr(self, each.name).copy() for each in fields(self)})

    def fact(self, key: str) -> Fact | None:
        """See `RecordReader.fact`."""
        alike = [
            (fact.key == key, fact.set_unix_ns, row)
            for row, fact in enumerate(self.facts)
            if not fact.ended_unix_ns and (fact.key == key or fold_key(fact.key) == fold_key(key))
        ]
        return self.facts[max(alike)[2]] if alike else None

    def bury(self, scope: TombstoneScope, name: str, now_unix_ns: int) -> None:
        """Leave a tombstone."""
        self.tombstones[scope, name] = Tombstone(scope, name, now_unix_ns)

    def remove(self, archive_ids: Iterable[str]) -> Erased:
        """Remove turns, and everything that repeats their words."""
        named = set(archive_ids)
        doomed = named & self.turns.keys()
        docs = [doc for doc, archive_id in self.docs.items() if archive_id in doomed]
        vectors = sum(self.vectors.pop(doc, None) is not None for doc in docs)
        for doc in docs:
            del self.docs[doc], self.terms[doc]
        for archive_id in doomed:
            del self.turns[archive_id]
            self.used.pop(archive_id, None)
        notices = self.remove_notices(
            row for row, each in self.notices.items() if named & set(each.notice.archive_ids)
        )
        self.numbers["generation"] += 1
        return Erased(turns=len(doomed), vectors=vectors, notices=notices)

    def remove_notices(self, rows: Iterable[int]) -> int:
        """Remove rows of the outbox; returns how many."""
        doomed = list(rows)
        for row in doomed:
            del self.notices[row]
        return len(doomed)


class FakeWriter:
    """`ArchiveWriter` over the tables of one transaction."""

    def __init__(self, tables: Tables, tenant: str) -> None:
        self._tables = tables
        self._tenant = tenant

    def expect(self, archive_ids: Iterable[str]) -> None:
        """See `TurnWriter.expect`; everything is at hand."""

    def session_turns(self, session: str) -> list[StoredTurn]:
        """See `TurnWriter.session_turns`."""
        found = [turn for turn in self._tables.turns.values() if turn.session == session]
        return sorted(found, key=_by_ordinal)

    def turn(self, archive_id: str) -> StoredTurn | None:
        """See `TurnWriter.turn`."""
        return self._tables.turns.get(archive_id)

    def newest(self, session: str) -> str | None:
        """See `TurnWriter.newest`."""
        turns = self.session_turns(session)
        return max(turns, key=lambda turn: turn.age_key).archive_id if turns else None

    def insert(self, turn: StoredTurn) -> bool:
        """See `TurnWriter.insert`."""
        tombs = self._tables.tombstones
        session = tombs.get((TombstoneScope.SESSION, session_name(turn.session)))
        tenant = tombs.get((TombstoneScope.TENANT, ""))
        late = [tomb for tomb in (session, tenant) if tomb is not None]
        if (TombstoneScope.TURN, turn.archive_id) in tombs or any(
            tomb.erased_unix_ns >= turn.started_unix_ns for tomb in late
        ):
            return False
        self._tables.turns.setdefault(turn.archive_id, turn)
        return True

    def supersede(self, archive_id: str) -> None:
        """See `TurnWriter.supersede`."""
        if self._live(archive_id) is not None:
            del self._tables.turns[archive_id]

    def place(self, archive_id: str, placement: Placement) -> None:
        """See `TurnWriter.place`."""
        turn = self._live(archive_id)
        if turn is not None:
            self._tables.turns[archive_id] = replace(turn, placement=placement)

    def archive(self, archive_id: str, now_unix_ns: int) -> bool:
        """See `TurnWriter.archive`."""
        turn = self._live(archive_id)
        if turn is None:
            return False
        tables = self._tables
        tables.turns[archive_id] = replace(
            turn, state=TurnState.ARCHIVED, archived_unix_ns=now_unix_ns
        )
        tables.numbers["doc"] += 1
        tables.docs[tables.numbers["doc"]] = archive_id
        counted = Counter(document_terms(turn.messages, turn.started_unix_ns))
        tables.terms[tables.numbers["doc"]] = counted
        return True

    def store_memory(self, question: str, answer: str, now_unix_ns: int) -> str:
        """See `TurnWriter.store_memory`."""
        memory = stored_memory(self._tenant, question, answer, now_unix_ns)
        self._tables.tombstones.pop((TombstoneScope.TURN, memory.archive_id), None)
        self._tables.turns.setdefault(memory.archive_id, memory)
        self.archive(memory.archive_id, now_unix_ns)
        return memory.archive_id

    def clear_memory(self, question: str) -> int:
        """See `TurnWriter.clear_memory`."""
        stored = self.session_turns(STORED_MEMORY_SESSION)
        return self._tables.remove(
            [turn.archive_id for turn in stored if turn.question == question]
        ).turns

    def recalled(self, archive_ids: Iterable[str], now_unix_ns: int) -> None:
        """See `TurnWriter.recalled`."""
        for archive_id in archive_ids:
            used = self._tables.used
            used[archive_id] = max(used.get(archive_id, 0), now_unix_ns)

    def add_notice(self, notice: Notice) -> None:
        """See `NoticeWriter.add_notice`."""
        tables = self._tables
        if all(row.notice.notice_id != notice.notice_id for row in tables.notices.values()):
            tables.numbers["notice"] += 1
            row = StoredNotice(tables.numbers["notice"], notice, NoticeState.PENDING)
            tables.notices[row.position] = row

    def acknowledge(self, notice_id: str) -> Heard | None:
        """See `NoticeWriter.acknowledge`."""
        for row in self._tables.notices.values():
            if row.notice.notice_id == notice_id:
                heard = replace(row, state=NoticeState.ACKNOWLEDGED)
                self._tables.notices[row.position] = heard
                is_first = row.state is NoticeState.PENDING
                return Heard(row.notice.created_unix_ns, is_first)
        return None

    def set_fact(self, key: str, value: str, now_unix_ns: int) -> None:
        """See `FactWriter.set_fact`."""
        now = self._tables.fact(key)
        if now is not None and (now.key, now.value) == (key, value):
            return
        self._end_fact(key, now_unix_ns)
        self._tables.facts.append(Fact(key, value, now_unix_ns))

    def clear_fact(self, key: str, now_unix_ns: int) -> str | None:
        """See `FactWriter.clear_fact`."""
        found = self._tables.fact(key)
        if found is None:
            return None
        self._end_fact(found.key, now_unix_ns)
        return found.key

    def put_dead_letter(self, letter: DeadLetter) -> None:
        """See `StreamWriter.put_dead_letter`."""
        known = self._tables.dead_letters.get(letter.name)
        if known is not None:
            letter = replace(known, reason=letter.reason, attempts=known.attempts + 1)
        self._tables.dead_letters[letter.name] = letter

    def drop_dead_letter(self, name: str) -> bool:
        """See `StreamWriter.drop_dead_letter`."""
        return self._tables.dead_letters.pop(name, None) is not None

    def position(self, name: str) -> Position | None:
        """See `StreamWriter.position`."""
        return self._tables.positions.get(name)

    def advance(self, name: str, position: Position) -> bool:
        """See `StreamWriter.advance`."""
        at = self._tables.positions.get(name)
        if at is not None and position <= at:
            return False
        self._tables.positions[name] = position
        return True

    def put_vectors(self, model: str, vectors: Iterable[StoredVectors]) -> None:
        """See `VectorWriter.put_vectors`."""
        for each in vectors:
            if each.doc in self._tables.docs:
                self._tables.vectors.pop(each.doc, None)
                self._tables.numbers["vectors"] += 1
                row = replace(each, number=self._tables.numbers["vectors"])
                self._tables.vectors[each.doc] = (model, row)

    def _live(self, archive_id: str) -> StoredTurn | None:
        turn = self._tables.turns.get(archive_id)
        return turn if turn is not None and turn.state is TurnState.LIVE else None

    def _end_fact(self, key: str, now_unix_ns: int) -> None:
        facts = self._tables.facts
        for row, fact in enumerate(facts):
            if fact.key == key and not fact.ended_unix_ns:
                facts[row] = replace(fact, ended_unix_ns=now_unix_ns)


def _by_ordinal(turn: StoredTurn) -> tuple[int, int, str]:
    return (turn.ordinal, turn.started_unix_ns, turn.archive_id)
