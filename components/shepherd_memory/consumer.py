"""Applies what the streams say: block index, archives, notices, positions.

The one place where state changes, and one thread at a time.  A batch of
arrivals is applied one by one, then committed in this order:

    1. each tenant's store    turns, changes of state, notices    (durable)
    2. the index store        blocks, holders, positions          (one transaction)
    3. the notices are returned, for whoever waits for them

A turn that is evicted is archived when its grace is over (`grace.py`): then
`apply` must be called, without arrivals if there are none.  A crash before 1 or between 1 and 2 leaves positions that lie behind the
archives; the streams replay from there, and every write of 1 is harmless when
repeated.  A frame at or before its stream's position is dropped, so that
replays within one run change nothing either.

A frame takes effect as a whole: a block that it removes from one tier and
stores on another is not gone in between.  Only the blocks of group 0, whose
attention sees everything, say whether a turn can be served.  A frame that
cannot be applied is counted and skipped; if it is a completed request, it is kept
as a dead letter of its tenant (`dead_letters.py`).  When a store fails, `reload` and apply
the same batch again: nothing of it is lost, nothing has an effect twice.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import assert_never

from shepherd_events.events import (
    BlockBatch,
    BlockHash,
    BlocksCleared,
    BlocksRemoved,
    BlocksReused,
    BlocksStored,
    Frame,
    Heartbeat,
    Notice,
    StreamId,
    TierState,
    TurnCompleted,
)
from shepherd_events.stream_cursor import Position
from shepherd_memory.archive.protocol import Archives
from shepherd_memory.arrivals import Arrival, StreamEnded, StreamReplaced
from shepherd_memory.block_index import Holder, validate_run
from shepherd_memory.clocks import Clocks
from shepherd_memory.dead_letters import reason_of
from shepherd_memory.errors import StoreUnavailableError, UnknownItemError
from shepherd_memory.eviction import EvictionWatch
from shepherd_memory.grace import GracePeriod
from shepherd_memory.metrics import Metrics
from shepherd_memory.recorder import MAX_INTEGER, Batch, Transcript, TurnRecorder
from shepherd_memory.stream_state import StreamState
from shepherd_memory.turn_traces import TurnTraces
from shepherd_telemetry.spans import NO_SPANS, Spans

log = logging.getLogger(__name__)


class Consumer:
    """State of the memory service; `apply` on the writer thread, the rest anywhere."""

    def __init__(
        self,
        *,
        archives: Archives,
        store: StreamState,
        transcripts: Mapping[StreamId, Transcript],
        metrics: Metrics,
        grace_ns: int,
        clocks: Clocks,
        spans: Spans = NO_SPANS,
    ) -> None:
        """Load what the last run left; blocks."""
        self._archives = archives
        self._store = store
        self._transcripts = transcripts
        self._metrics = metrics
        self._grace_ns = grace_ns
        self._clocks = clocks
        self._traces = TurnTraces(spans)
        self.reload()
        self.known_streams = self._positions.keys() | self._watch.streams_ahead()
        """The streams that the last run left something of."""

    def reload(self) -> None:
        """Go back to what the stores hold, as a new process would; blocks.

        After an `apply` that failed: what it had changed in memory is forgotten, and the
        same arrivals may be applied again.
        """
        self._index, self._positions, self._ended = self._store.load()
        self._watch = EvictionWatch()
        self._grace = GracePeriod(self._grace_ns)
        self._recorder = TurnRecorder(
            index=self._index,
            watch=self._watch,
            grace=self._grace,
            ended=self._ended,
            transcripts=self._transcripts,
            metrics=self._metrics,
            clocks=self._clocks,
            traces=self._traces,
        )
        self._recorder.recover(self._archives, self._positions)
        self.positions: Mapping[StreamId, Position] = dict(self._positions)
        """Where each stream stands as of the last commit; replaced, never changed."""
        self._partial: set[StreamId] = set()
        """Streams of which only some groups are indexed."""
        self._held: Mapping[StreamId, tuple[Position, tuple[TierState, ...]]] = {}
        self.next_due_ns = self._grace.next_due_ns()
        """Monotonic time at which `apply` has something to archive; None while it has not."""

    def apply(self, arrivals: Sequence[Arrival]) -> tuple[Notice, ...]:
        """Apply and commit a batch, and archive what is due; returns the new notices."""
        with Batch(self._archives) as batch:
            if len(arrivals) > 1:
                self._recorder.expect(batch, self._watch.waiting_on(self._leaving(arrivals)))
            for arrival in arrivals:
                self._apply_one(batch, arrival)
                self._recorder.archive_due(batch)
            self._recorder.archive_due(batch)
            notices = self._recorder.notify(batch)
        for since_ns in batch.evicted_ns:
            self._metrics.archive_seconds.observe((self._clocks.monotonic_ns() - since_ns) / 1e9)
        self._store.save(self._index, self._positions, self._ended)
        self.next_due_ns = self._grace.next_due_ns()
        self.positions = dict(self._positions)
        digests = self._index.digests()
        self._held = {
            stream: (position, digests.get(stream, ()))
            for stream, position in self._positions.items()
            if stream not in self._partial
        }
        self._metrics.blocks.set(len(self._index))
        self._metrics.turns_waiting.set(len(self._grace))
        return notices

    def apply_separately(self, arrivals: Sequence[Arrival]) -> tuple[Notice, ...]:
        """As `apply`, each arrival by itself, and without the frames that cannot be applied.

        For a batch that failed for another reason than its stores.

        Raises:
            Exception: what a snapshot or the end of a stream makes of the stores.
        """
        notices: list[Notice] = []
        self.reload()
        for arrival in arrivals:
            try:
                notices += self.apply([arrival])
            except StoreUnavailableError:
                raise
            except Exception as error:
                if not isinstance(arrival, Frame):
                    raise
                log.exception("frame given up", extra=_place(arrival))
                self.reload()
                notices += self._give_up(arrival, error)
        return tuple(notices)

    def replay_dead_letter(self, tenant: str, name: str) -> bool:
        """Apply what could not be applied before; says whether it could be now, and is gone.

        Raises:
            UnknownItemError: the tenant has no such letter.
        """
        letter = self._archives.of(tenant).dead_letter(name)
        if letter is None:
            raise UnknownItemError("dead letter", name)
        try:
            with Batch(self._archives) as batch:
                conversation = self._recorder.read_letter(letter)
                if conversation is not None:
                    self._recorder.write(batch, conversation)
                batch.writer(tenant).drop_dead_letter(name)
        except StoreUnavailableError:
            self.reload()
            raise
        except Exception as error:
            log.exception("dead letter %s cannot be applied", name)
            self.reload()
            with Batch(self._archives) as batch:
                batch.writer(tenant).put_dead_letter(replace(letter, reason=reason_of(error)))
            return False
        self.apply(())
        return True

    def holds(self, stream: StreamId, position: Position) -> tuple[TierState, ...] | None:
        """The digest of a stream's blocks as of a commit at this very position; from any thread."""
        at, digest = self._held.get(stream, (None, ()))
        return digest if at == position else None

    def holders(self, block_hash: int) -> frozenset[Holder]:
        """See `Caches.holders`."""
        return self._index.holders(block_hash)

    def resident(self) -> Mapping[Holder, int]:
        """See `Caches.resident`."""
        return self._index.resident()

    def check(self) -> None:
        """The conservation laws of index and watch; between two calls of `apply`.

        Raises:
            AssertionError: a law is broken.
        """
        self._index.check()
        self._watch.check()
        self._grace.check()

    def _leaving(self, arrivals: Sequence[Arrival]) -> Iterator[int]:
        """The blocks that will be gone after the arrivals, as far as can be told beforehand."""
        for arrival in arrivals:
            if not isinstance(arrival, Frame) or not isinstance(arrival.body, BlockBatch):
                continue
            for event in arrival.body.events:
                if isinstance(event, BlocksRemoved):
                    holder = arrival.stream, event.tier
                    yield from (
                        each for each in event.block_hashes if self._index.holders(each) == {holder}
                    )

    def _apply_one(self, batch: Batch, arrival: Arrival) -> None:
        reached: Position | None = None
        match arrival:
            case Frame():
                reached = Position(arrival.epoch, arrival.seq)
                if self._is_next(arrival, reached):
                    self._apply_frame(batch, arrival, reached)
            case StreamReplaced():
                reached = arrival.position
                self._replace(batch, arrival)
            case StreamEnded():
                self._metrics.resets.labels("ended").inc()
                self._positions.pop(arrival.stream, None)
                self._recorder.lost(batch, self._index.forget(arrival.stream))
            case _:
                assert_never(arrival)
        self._recorder.judge(batch, self._watch.release(arrival.stream, reached))

    def _is_next(self, frame: Frame, position: Position) -> bool:
        self._metrics.events_received.labels(type(frame.body).__name__).inc()
        if isinstance(frame.body, Heartbeat):
            return False
        if max(frame.epoch, frame.seq) > MAX_INTEGER:
            self._skip(frame, "a number is out of range")
            return False
        at = self._positions.get(frame.stream)
        if at is not None and position <= at:
            self._metrics.duplicates.inc()
            return False
        return True

    def _apply_frame(self, batch: Batch, frame: Frame, position: Position) -> None:
        self._move_to(batch, frame.stream, position)
        body = frame.body
        conversation = None
        try:
            if isinstance(body, BlockBatch):
                _validate(body)
            elif isinstance(body, TurnCompleted):
                conversation = self._recorder.read(frame, body)
        except Exception as error:
            # Whatever a frame does to those who read it, the frames behind it must go on.
            log.exception("frame skipped", extra=_place(frame))
            self._bury(batch, frame, error)
            return
        if isinstance(body, BlockBatch):
            self._apply_blocks(batch, frame.stream, body)
        elif conversation is not None:
            self._recorder.write(batch, conversation)

    def _move_to(self, batch: Batch, stream: StreamId, position: Position) -> None:
        at = self._positions.get(stream)
        self._positions[stream] = position
        if at is not None and position.epoch > at.epoch:
            self._metrics.resets.labels("new_epoch").inc()
            self._recorder.lost(batch, self._index.forget(stream))

    def _give_up(self, frame: Frame, error: Exception) -> tuple[Notice, ...]:
        """Move past a frame that cannot be applied, and keep it where it says something."""
        with Batch(self._archives) as batch:
            self._move_to(batch, frame.stream, Position(frame.epoch, frame.seq))
            self._bury(batch, frame, error)
        return self.apply(())

    def _bury(self, batch: Batch, frame: Frame, error: Exception) -> None:
        self._metrics.poison.inc()
        if isinstance(frame.body, TurnCompleted):
            self._recorder.bury(batch, frame, frame.body, error)

    def _replace(self, batch: Batch, arrival: StreamReplaced) -> None:
        self._metrics.resets.labels(arrival.reason).inc()
        self._positions[arrival.stream] = arrival.position
        sound = []
        for run in arrival.blocks:
            if run.group:
                self._partial.add(arrival.stream)
                continue
            try:
                validate_run(run)
            except ValueError as error:
                log.warning("run of a snapshot of %s skipped: %s", arrival.stream, error)
                self._metrics.poison.inc()
            else:
                sound.append(run)
        self._recorder.lost(batch, self._index.replace(arrival.stream, sound))

    def _skip(self, frame: Frame, reason: str) -> None:
        log.warning("frame skipped: %s", reason, extra=_place(frame))
        self._metrics.poison.inc()

    def _apply_blocks(self, batch: Batch, stream: StreamId, body: BlockBatch) -> None:
        gone: list[BlockHash] = []
        there: list[BlockHash] = []
        for event in body.events:
            if not isinstance(event, BlocksCleared) and event.group:
                self._partial.add(stream)
                continue
            match event:
                case BlocksStored():
                    there += self._index.stored(stream, event)
                case BlocksRemoved():
                    gone += self._index.removed(stream, event.tier, event.block_hashes)
                case BlocksCleared():
                    gone += self._index.cleared(stream, event.tier)
                case BlocksReused():
                    pass
                case _:
                    assert_never(event)
        self._recorder.lost(batch, [each for each in gone if each not in self._index])
        self._recorder.found(batch, there)


def _validate(body: BlockBatch) -> None:
    for event in body.events:
        if isinstance(event, BlocksStored):
            validate_run(event)


def _place(frame: Frame) -> dict[str, object]:
    return {"stream": str(frame.stream), "epoch": frame.epoch, "sequence": frame.seq}
