"""The turns of one transaction on a tenant's rows: read when asked for, written together.

What they are for stands at `TurnWriter`.  Whoever begins the transaction has
locked the tenant's row in `tenants`: one writes at a time, so that its numbers
become visible in their order however many replicas there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from shepherd_memory.analysis import document_terms
from shepherd_memory.archive.postgres_arrays import Integers, Strings
from shepherd_memory.archive.postgres_erasure import remove_turns
from shepherd_memory.archive.postgres_pool import Connection, text_of
from shepherd_memory.archive.postgres_rows import TURN_COLUMNS, select_turns
from shepherd_memory.archive.records import STORED_MEMORY_SESSION, StoredTurn
from shepherd_memory.archive.sqlite_erasure import session_name
from shepherd_memory.archive.sqlite_rows import packed
from shepherd_memory.archive.stored_memory import stored_memory
from shepherd_memory.archive.unit_of_work import UnitOfWork
from shepherd_memory.eviction import Placement

_NEWEST = """SELECT archive_id FROM turns WHERE tenant = %(tenant)s AND session = %(session)s
    ORDER BY started_unix_ns DESC, ordinal DESC, archive_id DESC LIMIT 1"""
_NEWEST_OF_EACH = """SELECT sessions.session, newest.archive_id
    FROM (SELECT DISTINCT session FROM turns
        WHERE tenant = %(tenant)s AND archive_id = ANY(%(ids)s::bytea[])) AS sessions,
    LATERAL (SELECT archive_id FROM turns
        WHERE tenant = %(tenant)s AND turns.session = sessions.session
        ORDER BY started_unix_ns DESC, ordinal DESC, archive_id DESC LIMIT 1) AS newest"""
_TOMBSTONE = """SELECT 1 FROM tombstones WHERE tenant = %(tenant)s AND (
    (scope = 'turn' AND name = %(id)s)
    OR (scope = 'session' AND name = %(session)s AND erased_unix_ns >= %(started)s)
    OR (scope = 'tenant' AND name = '' AND erased_unix_ns >= %(started)s))"""

_INSERT = f"""INSERT INTO turns (tenant, {TURN_COLUMNS}, doc, num_terms)
    SELECT %(tenant)s, archive_id, session, ordinal, digest, messages, doc > 0, request_id,
        started_unix_ns, archived_unix_ns, worker_id, dp_rank, epoch, seq, placed_unix_ns,
        block_hashes, nullif(doc, 0), num_terms
    FROM unnest(%(archive_id)s, %(session)s, %(ordinal)s, %(digest)s, %(messages)s,
        %(request_id)s, %(started_unix_ns)s, %(archived_unix_ns)s, %(worker_id)s, %(dp_rank)s,
        %(epoch)s, %(seq)s, %(placed_unix_ns)s, %(block_hashes)s, %(doc)s, %(num_terms)s)
    AS new (archive_id, session, ordinal, digest, messages,
        request_id, started_unix_ns, archived_unix_ns, worker_id, dp_rank,
        epoch, seq, placed_unix_ns, block_hashes, doc, num_terms)
    ON CONFLICT (tenant, archive_id) DO NOTHING"""  # noqa: S608  constants only
_UPDATE = """UPDATE turns SET archived = new.doc > 0, archived_unix_ns = new.archived_unix_ns,
        worker_id = new.worker_id, dp_rank = new.dp_rank, epoch = new.epoch, seq = new.seq,
        placed_unix_ns = new.placed_unix_ns, block_hashes = new.block_hashes,
        doc = nullif(new.doc, 0), num_terms = new.num_terms
    FROM unnest(%(archive_id)s, %(archived_unix_ns)s, %(worker_id)s, %(dp_rank)s, %(epoch)s,
        %(seq)s, %(placed_unix_ns)s, %(block_hashes)s, %(doc)s, %(num_terms)s)
    AS new (archive_id, archived_unix_ns, worker_id, dp_rank, epoch,
        seq, placed_unix_ns, block_hashes, doc, num_terms)
    WHERE turns.tenant = %(tenant)s AND turns.archive_id = new.archive_id"""
_PUT_POSTINGS = """INSERT INTO postings
    SELECT %(tenant)s, term, doc, occurrences
    FROM unnest(%(terms)s, %(docs)s, %(occurrences)s) AS counted (term, doc, occurrences)"""


class PostgresTurnWriter:
    """`TurnWriter` over a connection inside its transaction; `flush` before the commit."""

    def __init__(self, open_: Callable[[], Connection], tenant: str, number: int) -> None:
        """`open_` gives the transaction's connection, which speaks for this tenant then."""
        self._open = open_
        self._tenant = tenant
        self._number = number
        self._work = UnitOfWork()
        self._has_tombstones: bool | None = None
        """Whether the tenant has any; None before the first question."""

    def expect(self, archive_ids: Iterable[str]) -> None:
        """See `TurnWriter.expect`."""
        wanted = [each for each in archive_ids if not self._work.knows(each)]
        if not wanted:
            return
        self._work.read(self._turns("AND archive_id = ANY(%(ids)s::bytea[])", ids=wanted))
        self._work.read_missing(wanted)
        values = {"tenant": self._number, "ids": wanted}
        for row in self._open().execute(_NEWEST_OF_EACH, values):
            self._work.read_newest(text_of(row["session"]), text_of(row["archive_id"]))

    def session_turns(self, session: str) -> list[StoredTurn]:
        """See `TurnWriter.session_turns`."""
        self._read_session(session)
        return self._work.session_turns(session)

    def turn(self, archive_id: str) -> StoredTurn | None:
        """See `TurnWriter.turn`."""
        if not self._work.knows(archive_id):
            self._work.read(self._turns("AND archive_id = %(id)s", id=archive_id))
            self._work.read_missing([archive_id])
        return self._work.turn(archive_id)

    def newest(self, session: str) -> str | None:
        """See `TurnWriter.newest`."""
        if not self._work.knows_newest(session):
            values = {"tenant": self._number, "session": session}
            row = self._open().execute(_NEWEST, values).fetchone()
            self._work.read_newest(session, None if row is None else text_of(row["archive_id"]))
        return self._work.newest(session)

    def insert(self, turn: StoredTurn) -> bool:
        """See `TurnWriter.insert`."""
        if self._is_erased(turn):
            return False
        self._insert(turn)
        return True

    def supersede(self, archive_id: str) -> None:
        """See `TurnWriter.supersede`."""
        turn = self.turn(archive_id)
        if turn is not None:
            self._read_session(turn.session)
            self._work.supersede(archive_id)

    def place(self, archive_id: str, placement: Placement) -> None:
        """See `TurnWriter.place`."""
        self.turn(archive_id)
        self._work.place(archive_id, placement)

    def archive(self, archive_id: str, now_unix_ns: int) -> bool:
        """See `TurnWriter.archive`."""
        self.turn(archive_id)
        return self._work.archive(archive_id, now_unix_ns)

    def store_memory(self, question: str, answer: str, now_unix_ns: int) -> str:
        """See `TurnWriter.store_memory`."""
        memory = stored_memory(self._tenant, question, answer, now_unix_ns)
        self._open().execute(
            "DELETE FROM tombstones WHERE tenant = %s AND scope = 'turn' AND name = %s",
            (self._number, memory.archive_id),
        )
        if self.turn(memory.archive_id) is None:
            self._insert(memory)
        self.archive(memory.archive_id, now_unix_ns)
        return memory.archive_id

    def clear_memory(self, question: str) -> int:
        """See `TurnWriter.clear_memory`."""
        stored = self.session_turns(STORED_MEMORY_SESSION)
        doomed = [turn.archive_id for turn in stored if turn.question == question]
        self.flush()
        self._work = UnitOfWork()
        return remove_turns(self._open(), self._number, doomed).turns

    def recalled(self, archive_ids: Iterable[str], now_unix_ns: int) -> None:
        """See `TurnWriter.recalled`."""
        self.flush()
        self._open().execute(
            """UPDATE turns SET used_unix_ns = greatest(used_unix_ns, %s)
            WHERE tenant = %s AND archive_id = ANY(%s::bytea[])""",
            (now_unix_ns, self._number, list(archive_ids)),
        )

    def flush(self) -> None:
        """Write what has changed so far."""
        changes = self._work.take_changes()
        if changes.removed:
            self._open().execute(
                "DELETE FROM turns WHERE tenant = %s AND archive_id = ANY(%s::bytea[])",
                (self._number, changes.removed),
            )
        docs = self._number_documents(changes.archived)
        for statement, turns in ((_INSERT, changes.inserted), (_UPDATE, changes.updated)):
            if turns:
                self._open().execute(statement, self._columns(turns, docs))

    def next_numbers(self, counter: str, how_many: int) -> range:
        """The tenant's next numbers of a kind, never given twice."""
        row = self._open().execute(
            f"""UPDATE tenants SET {counter} = {counter} + %s WHERE tenant = %s
            RETURNING {counter} AS last""",  # noqa: S608  constants only
            (how_many, self._number),
        )
        found = row.fetchone()
        assert found is not None, "a tenant's row is never removed"
        last = int(found["last"])
        return range(last - how_many + 1, last + 1)

    def _number_documents(self, archived: Sequence[StoredTurn]) -> dict[str, tuple[int, int]]:
        """Make turns searchable; number and terms of each, by archive id."""
        if not archived:
            return {}
        numbers = self.next_numbers("last_doc", len(archived))
        docs: dict[str, tuple[int, int]] = {}
        postings: list[tuple[str, int, int]] = []
        for doc, turn in zip(numbers, archived, strict=True):
            terms = document_terms(turn.messages, turn.started_unix_ns)
            docs[turn.archive_id] = doc, len(terms)
            postings += ((term, doc, number) for term, number in Counter(terms).items())
        if postings:
            postings.sort()
            words, of, occurrences = zip(*postings, strict=True)
            values = {
                "tenant": self._number,
                "terms": Strings(words),
                "docs": Integers(of),
                "occurrences": Integers(occurrences),
            }
            self._open().execute(_PUT_POSTINGS, values)
        return docs

    def _columns(
        self, turns: Sequence[StoredTurn], docs: dict[str, tuple[int, int]]
    ) -> dict[str, object]:
        """Turns as columns; those that were archived have a document."""
        numbered = [docs.get(turn.archive_id, (0, 0)) for turn in turns]
        placements = [turn.placement for turn in turns]
        return {
            "tenant": self._number,
            "archive_id": Strings([turn.archive_id for turn in turns]),
            "session": Strings([turn.session for turn in turns]),
            "ordinal": Integers([turn.ordinal for turn in turns]),
            "digest": Strings([turn.digest for turn in turns]),
            "messages": Strings([packed(turn.messages) for turn in turns]),
            "request_id": Strings([turn.request_id for turn in turns]),
            "started_unix_ns": Integers([turn.started_unix_ns for turn in turns]),
            "archived_unix_ns": Integers([turn.archived_unix_ns for turn in turns]),
            "worker_id": Strings([each.stream.worker_id for each in placements]),
            "dp_rank": Integers([each.stream.dp_rank for each in placements]),
            "epoch": Integers([each.position.epoch for each in placements]),
            "seq": Integers([each.position.seq for each in placements]),
            "placed_unix_ns": Integers([each.started_unix_ns for each in placements]),
            "block_hashes": Strings([each.block_hashes.tobytes() for each in placements]),
            "doc": Integers([doc for doc, _ in numbered]),
            "num_terms": Integers([terms for _, terms in numbered]),
        }

    def _insert(self, turn: StoredTurn) -> None:
        self._read_session(turn.session)
        self._work.insert(turn)

    def _read_session(self, session: str) -> None:
        if not self._work.knows_session(session):
            self._work.read_session(
                session, self._turns("AND session = %(session)s", session=session)
            )

    def _is_erased(self, turn: StoredTurn) -> bool:
        if self._has_tombstones is None:
            any_ = "SELECT 1 FROM tombstones WHERE tenant = %s LIMIT 1"
            found = self._open().execute(any_, (self._number,)).fetchone()
            self._has_tombstones = found is not None
        if not self._has_tombstones:
            return False
        values = {
            "tenant": self._number,
            "id": turn.archive_id,
            "session": session_name(turn.session),
            "started": turn.started_unix_ns,
        }
        return self._open().execute(_TOMBSTONE, values).fetchone() is not None

    def _turns(self, where: str, **values: object) -> Iterator[StoredTurn]:
        return select_turns(self._open(), where, {"tenant": self._number, **values})
