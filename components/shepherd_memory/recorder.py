"""Writes turns as they complete and archives them as their blocks go.

Works inside one `Batch`: a transaction per tenant, opened when first needed.
Knows the rule: a turn that stays evicted for the grace is archived, unless it
is the newest of a session that goes on; archived is final.  Whenever a session
gets a newer turn, all of its live turns are judged again.  Knows nothing of
streams' order and positions.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol, Self

from shepherd_events.events import Attribution, Frame, Notice, StreamId, TurnCompleted
from shepherd_events.stream_cursor import Position
from shepherd_events.transcript import Message
from shepherd_memory.archive.protocol import Archives, ArchiveWriter
from shepherd_memory.archive.records import DeadLetter, StoredTurn, TurnState
from shepherd_memory.block_index import BlockIndex, Chain
from shepherd_memory.clocks import Clocks
from shepherd_memory.dead_letters import NO_BLOCKS, frame_of, is_whole, letter_of, reason_of
from shepherd_memory.eviction import EvictionWatch, Placement, TurnKey, is_evicted
from shepherd_memory.grace import GracePeriod, SessionKey
from shepherd_memory.metrics import Metrics
from shepherd_memory.notifier import notice_of
from shepherd_memory.reconcile import Decision, reconcile, reconcile_newest, unread_rest
from shepherd_memory.turn_traces import TurnTraces
from shepherd_memory.turns import Turn, archive_id_of, digest_of, is_unread, split_turns

LOCAL_TENANT = "local"
"""Whose events carry no tenant."""


MAX_INTEGER = 2**63 - 1
"""The greatest number that a store can keep."""


class Transcript(Protocol):
    """Reads one model's token sequences as conversations; writer thread."""

    def read(self, token_ids: array[int]) -> tuple[Message, ...]:
        """Messages whose spans tile the sequence."""
        ...


@dataclass(frozen=True, slots=True)
class Conversation:
    """What one completed request shows of its session."""

    origin: Attribution
    turns: tuple[Turn, ...]
    """At least one, oldest first."""
    complete: bool
    """Whether the first turn is the conversation's first."""
    stream: StreamId
    position: Position
    started_unix_ns: int
    final: bool
    """Whether the session ends with it."""
    traceparent: str = ""
    """Of the request; see `TurnCompleted`."""
    turn_is_given: bool = False
    """Whether the request said which turn its last one is; see `TurnCompleted`."""

    @property
    def tenant(self) -> str:
        """Whose conversation it is."""
        return self.origin.tenant or LOCAL_TENANT

    def placement_of(self, turn: Turn) -> Placement:
        """Where the request left a turn's KV."""
        return Placement(self.stream, self.position, self.started_unix_ns, turn.block_hashes)


class Batch:
    """The open transactions of one batch, and what it has archived so far.

    Leaving the block commits; an exception undoes what has not been committed yet.
    """

    def __init__(self, archives: Archives) -> None:
        self._opening = archives.batch()
        self.archived: defaultdict[tuple[str, str], list[StoredTurn]] = defaultdict(list)
        """By tenant and session."""
        self.evicted_ns: list[int] = []
        """When each of them was evicted, by the monotonic clock."""
        self.writer: Callable[[str], ArchiveWriter]
        """The tenant's open transaction; inside the block only."""

    def __enter__(self) -> Self:
        self.writer = self._opening.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._opening.__exit__(kind, error, trace)


class TurnRecorder:
    """Turns in, archived turns and notices out; writer thread only."""

    def __init__(
        self,
        *,
        index: BlockIndex,
        watch: EvictionWatch,
        grace: GracePeriod,
        ended: set[TurnKey],
        transcripts: Mapping[StreamId, Transcript],
        metrics: Metrics,
        clocks: Clocks,
        traces: TurnTraces,
    ) -> None:
        """`ended` are the newest turns of sessions that have ended; changed here."""
        self._index = index
        self._watch = watch
        self._grace = grace
        self._ended = ended
        self._transcripts = transcripts
        self._metrics = metrics
        self._clocks = clocks
        self._traces = traces

    def recover(self, archives: Archives, positions: Mapping[StreamId, Position]) -> None:
        """Watch the live turns of all tenants, and hold back those the index cannot judge yet."""
        for tenant in archives.tenants():
            for row in archives.of(tenant).live_turns():
                key = TurnKey(tenant, row.archive_id)
                reached = positions.get(row.placement.stream)
                if reached is None or row.placement.position > reached:
                    self._watch.hold_back(key, row.placement)
                    continue
                self._watch.watch(key, row.placement.block_hashes)
                if is_evicted(row.placement, self._index):
                    self._begin_grace(tenant, row)

    def read(self, frame: Frame, body: TurnCompleted) -> Conversation | None:
        """The conversation that a request ended with; None where there is nothing to keep.

        Changes nothing but counters.

        Raises:
            ValueError: a number is out of range.
            Exception: whatever the transcript makes of the tokens.
        """
        if body.started_unix_ns > MAX_INTEGER:
            raise ValueError(f"started_unix_ns {body.started_unix_ns} is out of range")
        if not body.origin.session_id:
            self._metrics.turns_anonymous.inc()
            return None
        if body.withheld:
            self._metrics.turns_withheld.inc()
            return None
        chain = self._index.chain(body.last_block_hash)
        complete = is_whole(body, chain)
        if not complete:
            self._metrics.turns_incomplete.inc()
        return self._conversation(
            frame, body, chain, chain.token_ids + body.tail_token_ids, complete
        )

    def read_letter(self, letter: DeadLetter) -> Conversation | None:
        """As `read`, for a request that could not be applied before.

        Raises:
            Exception: whatever the codec and the transcript make of it.
        """
        frame, body = frame_of(letter)
        chain = self._index.chain(body.last_block_hash)
        complete = body.last_block_hash is not None or not body.num_full_blocks
        placed = chain if is_whole(body, chain) else NO_BLOCKS
        return self._conversation(frame, body, placed, body.tail_token_ids, complete)

    def bury(self, batch: Batch, frame: Frame, body: TurnCompleted, error: Exception) -> None:
        """Keep a request that cannot be applied as a dead letter of its tenant."""
        if not body.origin.session_id:
            return
        chain = self._index.chain(body.last_block_hash)
        letter = letter_of(frame, body, chain, reason_of(error), self._clocks.unix_ns())
        batch.writer(body.origin.tenant or LOCAL_TENANT).put_dead_letter(letter)
        self._metrics.dead_letters.inc()

    def _conversation(
        self, frame: Frame, body: TurnCompleted, chain: Chain, tokens: array[int], complete: bool
    ) -> Conversation | None:
        messages = self._transcripts[frame.stream].read(tokens)
        turns = split_turns(messages, chain)
        if not turns:
            return None
        return Conversation(
            origin=body.origin,
            turns=turns,
            complete=complete,
            stream=frame.stream,
            position=Position(frame.epoch, frame.seq),
            started_unix_ns=body.started_unix_ns,
            final=body.session_final,
            traceparent=body.traceparent,
            turn_is_given=body.turn_is_given,
        )

    def write(self, batch: Batch, conversation: Conversation) -> None:
        """Keep a conversation's turns as live, where their KV is now, and judge its session."""
        with self._traces.recording(conversation.origin, conversation.traceparent):
            self._write(batch, conversation)

    def _write(self, batch: Batch, conversation: Conversation) -> None:
        origin, turns = conversation.origin, conversation.turns
        writer = batch.writer(conversation.tenant)
        known = writer.session_turns(origin.session_id)
        if conversation.complete:
            read = [rest for turn in turns if (rest := unread_rest(known, turn)) is not None]
            given = origin.turn if conversation.turn_is_given else 0
            decisions = reconcile(known, read, origin.request_id, given)
        else:
            decisions = reconcile_newest(known, turns[-1], origin)
        for decision in decisions:
            if decision.kept is None:
                self._insert(writer, conversation, decision)
            elif conversation.complete:
                _place(writer, conversation, decision.turn, decision.kept)
        rows = writer.session_turns(origin.session_id)
        if rows:
            self._note_end(conversation, max(rows, key=lambda row: row.age_key))
            self._judge(batch, conversation.tenant, rows)

    def expect(self, batch: Batch, keys: Iterable[TurnKey]) -> None:
        """Let the stores read together the turns that will be judged."""
        by_tenant: defaultdict[str, list[str]] = defaultdict(list)
        for key in keys:
            by_tenant[key.tenant].append(key.archive_id)
        for tenant, archive_ids in by_tenant.items():
            batch.writer(tenant).expect(archive_ids)

    def lost(self, batch: Batch, block_hashes: Iterable[int]) -> None:
        """Judge the turns that wait on blocks which are gone."""
        self.judge(batch, self._watch.waiting_on(block_hashes))

    def found(self, batch: Batch, block_hashes: Iterable[int]) -> None:
        """Judge the turns in their grace whose blocks are there again."""
        if self._grace:
            waiting = self._watch.waiting_on(block_hashes)
            self.judge(batch, [key for key in waiting if key in self._grace])

    def archive_due(self, batch: Batch) -> None:
        """Archive the turns that have been evicted for long enough."""
        due = self._grace.take_due(self._clocks.monotonic_ns())
        self.expect(batch, due)
        for key, since_ns in due.items():
            writer = batch.writer(key.tenant)
            row = writer.turn(key.archive_id)
            if row is None or row.state is TurnState.ARCHIVED:
                self._forget(key)
            elif self._may_go(key, row, writer.newest(row.session)):
                self._forget(key)
                self._archive(batch, key.tenant, row, since_ns)
            else:
                self._judge(batch, key.tenant, [row])

    def judge(self, batch: Batch, keys: Iterable[TurnKey]) -> None:
        """Begin or end the grace of turns whose blocks have changed."""
        changed = sorted(keys)
        self.expect(batch, changed)
        for key in changed:
            row = batch.writer(key.tenant).turn(key.archive_id)
            if row is None:
                self._forget(key)
            else:
                self._judge(batch, key.tenant, [row])

    def notify(self, batch: Batch) -> tuple[Notice, ...]:
        """Put one notice per session, by name, into the outbox for what the batch has archived."""
        notices = []
        for (tenant, _), turns in sorted(batch.archived.items()):
            notice = notice_of(tenant, turns, self._clocks.unix_ns())
            batch.writer(tenant).add_notice(notice)
            self._metrics.notices.labels("created").inc()
            notices.append(notice)
        return tuple(notices)

    def _insert(
        self, writer: ArchiveWriter, conversation: Conversation, decision: Decision
    ) -> None:
        tenant, session = conversation.tenant, conversation.origin.session_id
        for row in decision.superseded:
            writer.supersede(row.archive_id)
            self._forget(TurnKey(tenant, row.archive_id))
        turn = decision.turn
        newest = turn.end == conversation.turns[-1].end
        digest = digest_of(turn.messages)
        archive_id = archive_id_of(tenant, session, decision.ordinal, digest)
        if newest:
            self._traces.remember(archive_id, conversation.traceparent)
        kept = writer.insert(
            StoredTurn(
                archive_id=archive_id,
                session=session,
                ordinal=decision.ordinal,
                digest=digest,
                messages=turn.messages,
                placement=conversation.placement_of(turn),
                request_id=conversation.origin.request_id if newest else "",
                started_unix_ns=conversation.started_unix_ns,
            )
        )
        (self._metrics.turns_recorded if kept else self._metrics.turns_erased).inc()

    def _judge(self, batch: Batch, tenant: str, rows: Sequence[StoredTurn]) -> None:
        """Judge rows of one session; there may be none where it was erased."""
        if not rows:
            return
        writer = batch.writer(tenant)
        newest = writer.newest(rows[0].session)
        for row in rows:
            key = TurnKey(tenant, row.archive_id)
            if row.state is TurnState.ARCHIVED:
                self._forget(key)
                continue
            if self._watch.is_ahead(key, row.placement):
                continue
            if self._may_go(key, row, newest):
                self._watch.watch(key, row.placement.block_hashes)
                self._begin_grace(tenant, row)
                continue
            self._grace.end(key)
            if is_evicted(row.placement, self._index):
                self._watch.drop(key)
            else:
                self._watch.watch(key, row.placement.block_hashes)

    def _may_go(self, key: TurnKey, row: StoredTurn, newest: str | None) -> bool:
        """Whether a turn is evicted and not protected."""
        is_unread_text = bool(row.placement.block_hashes) and is_unread(row.messages)
        is_protected = row.archive_id == newest and key not in self._ended and not is_unread_text
        return not is_protected and is_evicted(row.placement, self._index)

    def _begin_grace(self, tenant: str, row: StoredTurn) -> None:
        key = TurnKey(tenant, row.archive_id)
        self._grace.begin(SessionKey(tenant, row.session), key, self._clocks.monotonic_ns())

    def _note_end(self, conversation: Conversation, newest: StoredTurn) -> None:
        """The newest turn of a session that has ended is as good as any other."""
        key = TurnKey(conversation.tenant, newest.archive_id)
        if conversation.started_unix_ns < newest.started_unix_ns:
            return
        if conversation.final and newest.state is TurnState.LIVE:
            self._ended.add(key)
        else:
            self._ended.discard(key)

    def _forget(self, key: TurnKey) -> None:
        self._watch.drop(key)
        self._grace.end(key)
        self._ended.discard(key)

    def _archive(self, batch: Batch, tenant: str, row: StoredTurn, since_ns: int) -> None:
        now = self._clocks.unix_ns()
        with self._traces.archiving(row.archive_id, row.session):
            is_new = batch.writer(tenant).archive(row.archive_id, now)
        if is_new:
            archived = replace(row, state=TurnState.ARCHIVED, archived_unix_ns=now)
            batch.archived[tenant, row.session].append(archived)
            batch.evicted_ns.append(since_ns)
            self._metrics.turns_archived.inc()


def _place(writer: ArchiveWriter, conversation: Conversation, turn: Turn, row: StoredTurn) -> None:
    """Say where a known turn's KV is now, unless a later request has said so already."""
    if conversation.started_unix_ns >= row.placement.started_unix_ns:
        writer.place(row.archive_id, conversation.placement_of(turn))
