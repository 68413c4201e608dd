"""SQLite's archive is compared with the one in memory, whatever is done to both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from archive_samples import a_notice, a_turn
from shepherd_events.stream_cursor import Position
from shepherd_memory.archive.fake import FakeArchives
from shepherd_memory.archive.files import SqliteArchives
from shepherd_memory.archive.protocol import Archive, ArchiveWriter
from shepherd_memory.archive.records import DeadLetter, Quota
from shepherd_memory.search import search

SESSIONS = st.sampled_from(["s", "o"])
WORDS = st.sampled_from(["whale", "shark", "whale shark"])
KEYS = st.sampled_from(["userName", "user_name", "city"])
TURNS = st.builds(
    lambda ordinal, question, session: a_turn(ordinal, question, session=session),
    st.integers(1, 4),
    WORDS,
    SESSIONS,
)


class BothArchives(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self._directory = TemporaryDirectory()
        self.disk = SqliteArchives(Path(self._directory.name))
        self.memory = FakeArchives()
        self.now = 0

    def teardown(self) -> None:
        self.disk.close()
        self._directory.cleanup()

    def both(self, act: Callable[[Archive], Any]) -> None:
        """Do and ask the same of both."""
        self.now += 1
        assert act(self.disk.of("t")) == act(self.memory.of("t"))

    def write(self, act: Callable[[ArchiveWriter], Any]) -> None:
        def in_a_transaction(archive: Archive) -> Any:
            with archive.writing() as writer:
                return act(writer)

        self.both(in_a_transaction)

    @rule(turn=TURNS, archived=st.booleans())
    def keep(self, turn: Any, archived: bool) -> None:
        self.write(
            lambda writer: (
                writer.insert(turn),
                archived and writer.archive(turn.archive_id, self.now),
                writer.newest(turn.session),
            )
        )

    @rule(turn=TURNS)
    def change(self, turn: Any) -> None:
        self.write(lambda writer: writer.supersede(turn.archive_id))
        self.write(lambda writer: writer.recalled([turn.archive_id], self.now))

    @rule(turn=TURNS)
    def tell(self, turn: Any) -> None:
        notice = a_notice(turn.digest, session=turn.session, archive_ids=(turn.archive_id,))
        self.write(lambda writer: writer.add_notice(notice))
        self.write(lambda writer: writer.acknowledge(turn.digest))

    @rule(key=KEYS, value=WORDS)
    def set_fact(self, key: str, value: str) -> None:
        self.write(lambda writer: writer.set_fact(key, value, self.now))

    @rule(key=KEYS)
    def clear_fact(self, key: str) -> None:
        self.write(lambda writer: writer.clear_fact(key, self.now))

    @rule(key=KEYS)
    def erase_fact(self, key: str) -> None:
        self.both(lambda archive: archive.erase_fact(key))

    @rule(question=WORDS)
    def store_memory(self, question: str) -> None:
        self.write(lambda writer: writer.store_memory(question, "answer", self.now))

    @rule(question=WORDS)
    def clear_memory(self, question: str) -> None:
        self.write(lambda writer: writer.clear_memory(question))

    @rule(name=WORDS, session=SESSIONS)
    def put_dead_letter(self, name: str, session: str) -> None:
        letter = DeadLetter(name, session, f"at {self.now}", b"x", 1)
        self.write(lambda writer: writer.put_dead_letter(letter))

    @rule(epoch=st.integers(1, 3), seq=st.integers(1, 3))
    def advance(self, epoch: int, seq: int) -> None:
        self.write(lambda writer: (writer.advance("w", Position(epoch, seq)), writer.position("w")))

    @rule(session=SESSIONS)
    def erase_session(self, session: str) -> None:
        # As of the past: what is said later is new.
        self.both(lambda archive: archive.erase_session(session, 2))

    @rule(turn=TURNS)
    def erase_turn(self, turn: Any) -> None:
        self.both(lambda archive: archive.erase_turn(turn.archive_id, self.now))

    @rule(most=st.integers(0, 4))
    def prune(self, most: int) -> None:
        self.both(lambda archive: archive.prune(Quota(max_turns=most), self.now))

    @rule()
    def reopen(self) -> None:
        self.disk.close()

    @invariant()
    def both_tell_the_same(self) -> None:
        self.both(_seen)


def _seen(archive: Archive) -> Any:
    """All that a reader can tell, but for numbers that only order."""
    stats = archive.stats()
    return (
        [archive.turns(session, after=0, limit=2) for session in ("s", "o")],
        archive.sessions(after="", limit=9),
        archive.memories(after="", limit=9),
        [row.notice for row in archive.notices(session=None, state=None, after=0, limit=99)],
        archive.facts(after="", limit=9),
        [archive.fact(key) for key in ("username", "city")],
        archive.fact_history("userName", limit=99),
        archive.dead_letters(after="", limit=9),
        {(tomb.scope, tomb.name) for tomb in archive.tombstones()},
        (stats.live_turns, stats.archived_turns, stats.facts, stats.pending_notices),
        [(hit.turn.archive_id, hit.score) for hit in search(archive, "whales", 9)],
    )


TestBothArchives = BothArchives.TestCase
TestBothArchives.settings = settings(max_examples=12, stateful_step_count=20, deadline=None)
