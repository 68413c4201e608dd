"""The turns of one transaction: what was read of them, and what has become of them since.

A unit of work: changes are made here and written together at the end, so that a
transaction costs a few statements however many turns it touches.  Whoever reads
for it holds the tenant's lock: what was read stays true until the commit.  A
turn belongs to one session for good, its archive id says so: a session that was
read *whole* has no turn that is not known here.

Knows no database.  Turns that were not read must be read before they are asked
for; a turn that was changed here stays as it is here when it is read again.

Source: M. Fowler, Patterns of Enterprise Application Architecture, "Unit of Work"
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from shepherd_memory.archive.records import StoredTurn, TurnState
from shepherd_memory.eviction import Placement


@dataclass(frozen=True, slots=True)
class TurnChanges:
    """What has to be written, in this order; a turn that was removed may come anew."""

    removed: list[str]
    """Archive ids."""
    inserted: list[StoredTurn]
    """New turns as they are in the end, in the order in which they came."""
    updated: list[StoredTurn]
    """Turns that were there, as they are in the end: placed elsewhere, archived or both."""
    archived: list[StoredTurn]
    """Which of them were archived here, in that order."""


class UnitOfWork:
    """One tenant's turns in one transaction."""

    def __init__(self) -> None:
        self._turns: dict[str, StoredTurn | None] = {}
        """By archive id; None where there is none."""
        self._whole: dict[str, set[str]] = {}
        """The archive ids of sessions that were read whole."""
        self._newest: dict[str, str | None] = {}
        """Of sessions that were not; nothing was inserted or removed there."""
        self._inserted: dict[str, None] = {}
        self._updated: set[str] = set()
        self._removed: dict[str, None] = {}
        self._archived: dict[str, None] = {}

    def knows(self, archive_id: str) -> bool:
        """Whether `turn` can be answered."""
        return archive_id in self._turns

    def knows_session(self, session: str) -> bool:
        """Whether a session was read whole."""
        return session in self._whole

    def knows_newest(self, session: str) -> bool:
        """Whether `newest` can be answered."""
        return session in self._whole or session in self._newest

    def read(self, turns: Iterable[StoredTurn]) -> None:
        """Take turns as they are in the store."""
        for turn in turns:
            self._turns.setdefault(turn.archive_id, turn)

    def read_missing(self, archive_ids: Iterable[str]) -> None:
        """Take it that the store has none of these but those that are known."""
        for archive_id in archive_ids:
            self._turns.setdefault(archive_id, None)

    def read_session(self, session: str, turns: Iterable[StoredTurn]) -> None:
        """Take all turns of a session as they are in the store."""
        there = list(turns)
        self.read(there)
        self._whole[session] = {turn.archive_id for turn in there}

    def read_newest(self, session: str, archive_id: str | None) -> None:
        """Take which turn is a session's newest."""
        self._newest[session] = archive_id

    def turn(self, archive_id: str) -> StoredTurn | None:
        """A turn that is known."""
        return self._turns[archive_id]

    def session_turns(self, session: str) -> list[StoredTurn]:
        """All turns of a session that is known whole, by ordinal and then age."""
        turns = [self._turns[archive_id] for archive_id in self._whole[session]]
        found = [turn for turn in turns if turn is not None]
        return sorted(found, key=lambda turn: (turn.ordinal, turn.started_unix_ns, turn.archive_id))

    def newest(self, session: str) -> str | None:
        """Archive id of the turn with the greatest `age_key`."""
        if session not in self._whole:
            return self._newest[session]
        turns = self.session_turns(session)
        return max(turns, key=lambda turn: turn.age_key).archive_id if turns else None

    def insert(self, turn: StoredTurn) -> None:
        """Add a turn to a session that is known whole, unless it is there."""
        if self._turns.get(turn.archive_id) is not None:
            return
        self._turns[turn.archive_id] = turn
        self._whole[turn.session].add(turn.archive_id)
        self._inserted[turn.archive_id] = None

    def supersede(self, archive_id: str) -> None:
        """Drop a live turn of a session that is known whole."""
        turn = self._live(archive_id)
        if turn is None:
            return
        self._turns[archive_id] = None
        self._whole[turn.session].discard(archive_id)
        if archive_id in self._inserted:
            del self._inserted[archive_id]
        else:
            self._updated.discard(archive_id)
            self._removed[archive_id] = None

    def place(self, archive_id: str, placement: Placement) -> None:
        """Say where a live turn's KV lies."""
        turn = self._live(archive_id)
        if turn is not None:
            self._change(replace(turn, placement=placement))

    def archive(self, archive_id: str, now_unix_ns: int) -> bool:
        """Make a live turn archived; says whether it was live."""
        turn = self._live(archive_id)
        if turn is None:
            return False
        self._change(replace(turn, state=TurnState.ARCHIVED, archived_unix_ns=now_unix_ns))
        self._archived[archive_id] = None
        return True

    def take_changes(self) -> TurnChanges:
        """What has to be written to the store; from then on it counts as being there."""
        changes = TurnChanges(
            removed=list(self._removed),
            inserted=self._known(self._inserted),
            updated=self._known(sorted(self._updated)),
            archived=self._known(self._archived),
        )
        for each in (self._removed, self._inserted, self._updated, self._archived):
            each.clear()
        return changes

    def _live(self, archive_id: str) -> StoredTurn | None:
        turn = self._turns[archive_id]
        return turn if turn is not None and turn.state is TurnState.LIVE else None

    def _change(self, turn: StoredTurn) -> None:
        self._turns[turn.archive_id] = turn
        if turn.archive_id not in self._inserted:
            self._updated.add(turn.archive_id)

    def _known(self, archive_ids: Iterable[str]) -> list[StoredTurn]:
        return [turn for each in archive_ids if (turn := self._turns[each]) is not None]
