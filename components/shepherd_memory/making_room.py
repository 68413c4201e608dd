"""Archives turns for which a context window has no room, though their KV may still be there.

Whoever makes the window's context says which: turns that the memory has, by their
archive ids, and turns that no worker was ever shown, word for word.  They are
archived as evicted ones are, with one notice, in one transaction; again is harmless.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from shepherd_events.events import Notice, StreamId
from shepherd_events.stream_cursor import Position
from shepherd_memory.archive.protocol import ArchiveWriter
from shepherd_memory.archive.records import StoredTurn
from shepherd_memory.errors import UnknownItemError
from shepherd_memory.eviction import Placement
from shepherd_memory.notifier import notice_of
from shepherd_memory.recalled import without_recalled
from shepherd_memory.turns import Said, archive_id_of, digest_of


@dataclass(frozen=True, slots=True)
class UnseenTurn:
    """A turn that only its client has."""

    ordinal: int
    """Number of user messages so far, from 1."""
    messages: tuple[Said, ...]


@dataclass(frozen=True, slots=True)
class RoomMaker:
    """For one session of one tenant, in an open transaction."""

    writer: ArchiveWriter
    tenant: str
    session: str
    now_unix_ns: int

    def archive(self, known: Sequence[str], unseen: Sequence[UnseenTurn]) -> Notice | None:
        """Archive turns and put their notice into the outbox; None where nothing was live.

        Raises:
            UnknownItemError: the session has no turn of such an id.
        """
        turns = [self._known(archive_id) for archive_id in known]
        turns += [turn for each in unseen if (turn := self._inserted(each)) is not None]
        archived = [
            turn for turn in turns if self.writer.archive(turn.archive_id, self.now_unix_ns)
        ]
        if not archived:
            return None
        notice = notice_of(self.tenant, archived, self.now_unix_ns)
        self.writer.add_notice(notice)
        return notice

    def _known(self, archive_id: str) -> StoredTurn:
        turn = self.writer.turn(archive_id)
        if turn is None or turn.session != self.session:
            raise UnknownItemError("turn", archive_id)
        return turn

    def _inserted(self, unseen: UnseenTurn) -> StoredTurn | None:
        """The turn as it is kept; None where it was erased before."""
        said = tuple(Said(each.role, without_recalled(each.text)) for each in unseen.messages)
        digest = digest_of(said)
        turn = StoredTurn(
            archive_id=archive_id_of(self.tenant, self.session, unseen.ordinal, digest),
            session=self.session,
            ordinal=unseen.ordinal,
            digest=digest,
            messages=said,
            placement=Placement(StreamId(""), Position(0, 0), 0, array("Q")),
            request_id="",
            started_unix_ns=self._began_unix_ns(unseen),
        )
        return turn if self.writer.insert(turn) else None

    def _began_unix_ns(self, unseen: UnseenTurn) -> int:
        """When a turn began at the latest: as the next one that a worker was shown, or now."""
        later = (
            row.started_unix_ns
            for row in self.writer.session_turns(self.session)
            if row.ordinal > unseen.ordinal
        )
        return min(later, default=self.now_unix_ns)
