"""A transaction's turns, read in pieces and written together, are what they are when written one by one."""

from __future__ import annotations

from array import array
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from archive_samples import a_turn
from shepherd_events.events import StreamId
from shepherd_events.stream_cursor import Position
from shepherd_memory.archive.fake_tables import FakeWriter, Tables
from shepherd_memory.archive.records import StoredTurn, TurnState
from shepherd_memory.archive.unit_of_work import UnitOfWork
from shepherd_memory.eviction import Placement

TURNS = st.builds(
    lambda ordinal, started, session: a_turn(ordinal, started=started, session=session),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from(["s", "o"]),
)


class WrittenTogether(RuleBasedStateMachine):
    """`stored` is the database, `work` what a transaction makes of it, `fake` writes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.stored: dict[str, StoredTurn] = {}
        self.work = UnitOfWork()
        self.fake = FakeWriter(Tables(), "t")
        self.archived: list[str] = []
        self.now = 0

    def _read(self, archive_id: str) -> StoredTurn | None:
        if not self.work.knows(archive_id):
            found = self.stored.get(archive_id)
            self.work.read([] if found is None else [found])
            self.work.read_missing([archive_id])
        return self.work.turn(archive_id)

    def _read_session(self, session: str) -> None:
        if not self.work.knows_session(session):
            turns = [turn for turn in self.stored.values() if turn.session == session]
            self.work.read_session(session, turns)

    @rule(turn=TURNS)
    def insert(self, turn: Any) -> None:
        self._read_session(turn.session)
        self.work.insert(turn)
        self.fake.insert(turn)

    @rule(turn=TURNS)
    def supersede(self, turn: Any) -> None:
        if self._read(turn.archive_id) is not None:
            self._read_session(turn.session)
            self.work.supersede(turn.archive_id)
        self.fake.supersede(turn.archive_id)

    @rule(turn=TURNS, seq=st.integers(1, 9))
    def place(self, turn: Any, seq: int) -> None:
        placement = Placement(StreamId("x"), Position(1, seq), 1, array("Q", [seq]))
        self._read(turn.archive_id)
        self.work.place(turn.archive_id, placement)
        self.fake.place(turn.archive_id, placement)

    @rule(turn=TURNS)
    def archive(self, turn: Any) -> None:
        self.now += 1
        self._read(turn.archive_id)
        archived = self.work.archive(turn.archive_id, self.now)
        if archived:
            self.archived.append(turn.archive_id)

        assert archived == self.fake.archive(turn.archive_id, self.now)

    @rule(turn=TURNS)
    def ask(self, turn: Any) -> None:
        assert self._read(turn.archive_id) == self.fake.turn(turn.archive_id)

    @rule(session=st.sampled_from(["s", "o"]))
    def ask_for_a_session(self, session: str) -> None:
        self._read_session(session)

        assert self.work.session_turns(session) == self.fake.session_turns(session)

    @rule(session=st.sampled_from(["s", "o"]))
    def ask_for_the_newest(self, session: str) -> None:
        if not self.work.knows_newest(session):
            turns = [turn for turn in self.stored.values() if turn.session == session]
            newest = max(turns, key=lambda turn: turn.age_key, default=None)
            self.work.read_newest(session, None if newest is None else newest.archive_id)

        assert self.work.newest(session) == self.fake.newest(session)

    @rule(commits=st.booleans())
    def write(self, commits: bool) -> None:
        changes = self.work.take_changes()
        named = [turn.archive_id for turn in changes.inserted + changes.updated]
        archived = [turn.archive_id for turn in changes.archived]
        for archive_id in changes.removed:
            assert self.stored.pop(archive_id).state is TurnState.LIVE
        assert not self.stored.keys() & {turn.archive_id for turn in changes.inserted}
        assert self.stored.keys() >= {turn.archive_id for turn in changes.updated}
        self.stored |= {turn.archive_id: turn for turn in changes.inserted + changes.updated}

        assert len(set(named)) == len(named)
        assert not {turn.archive_id for turn in changes.updated} & set(changes.removed)
        assert archived == self.archived
        assert set(archived) <= set(named)
        assert self.stored == {
            turn.archive_id: turn for each in ("s", "o") for turn in self.fake.session_turns(each)
        }
        self.archived = []
        if commits:
            self.work = UnitOfWork()


TestWrittenTogether = WrittenTogether.TestCase
TestWrittenTogether.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_turn_that_was_written_and_removed_may_come_anew_in_the_same_transaction() -> None:
    machine = WrittenTogether()
    machine.insert(turn := a_turn(1, started=1, session="s"))
    machine.write(commits=False)
    machine.supersede(turn)
    machine.insert(turn)
    machine.write(commits=True)

    assert machine.stored == {turn.archive_id: turn}
