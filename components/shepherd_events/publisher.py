"""The sending side of one stream; never makes the engine wait.

What a call tells is numbered and applied to the resident set under one lock, in
the caller's thread; encoding, keeping for replay and sending happen in a thread
of the publisher's own, control requests in one of the transport's.

    publish ──► Outbox ──► sender: encode ─► ReplayRing ─► transport.send
       └──────► ResidentSet ──┐                  │
                              ▼                  ▼
                       snapshot, digest       replay        ◄── ControlServer

Every number that was reserved is sent: as its frame, or within the range of a
tombstone when the queue was full or the frame could not be encoded.  The
resident set knows the truth in either case, so that a snapshot heals readers.
A frame can be replayed before it is sent, so whoever sees a number can ask for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from shepherd_events.codec import encode_frame
from shepherd_events.control_server import ControlServer
from shepherd_events.epoch_file import EpochFile
from shepherd_events.errors import CodecError, KvEventsError, TransportError
from shepherd_events.events import (
    BlockBatch,
    BlockEvent,
    BlocksRemoved,
    BlocksStored,
    Body,
    Frame,
    Goodbye,
    Heartbeat,
    Notice,
    StreamAddress,
    StreamId,
    StreamInfo,
    Tombstone,
    TurnCompleted,
)
from shepherd_events.outbox import NumberedBody, Outbox
from shepherd_events.privacy import NoVeil, Privacy, Veil
from shepherd_events.replay_ring import ReplayRing
from shepherd_events.resident_set import ResidentSet, ResidentView
from shepherd_events.transports.protocol import Backlog, PublisherTransport, topic_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PublisherCounters:
    """Totals since the start."""

    frames: int
    """Numbered frames, tombstones included."""
    events: int
    """Block events sent, and 1 for any other numbered frame."""
    bytes_sent: int
    dropped_events: int
    """Told while the queue was full, or after `close`."""
    tombstones: int
    unencodable_frames: int
    send_failures: int
    """Frames that the transport refused; a replay can bring them."""
    heartbeats: int
    replays: int
    snapshots: int
    refused_requests: int
    refused_readers: int
    """Times that a reader without the right key was turned away."""


class KvEventPublisher:
    """One epoch of one stream; `start` it, tell it, `close` it."""

    def __init__(
        self,
        stream: StreamId,
        info: StreamInfo,
        transport: PublisherTransport,
        *,
        clock: Callable[[], int] = time.time_ns,
        previous_epoch: int = 0,
        epoch_file: EpochFile | None = None,
        veil: Veil | None = None,
        max_queued_events: int = 100_000,
        ring_bytes: int = 64 << 20,
        heartbeat_s: float = 1.0,
    ) -> None:
        """`clock` gives Unix nanoseconds.

        `previous_epoch`, `epoch_file` and what the transport remembers keep epochs
        growing if the clock goes back; `epoch` is final after `start`.  `veil` says what
        readers may know; without one, everything.
        """
        self.stream = stream
        self.epoch = max(clock(), previous_epoch + 1)
        self._epoch_file = epoch_file
        self._veil: Veil = veil or NoVeil()
        self._info = replace(
            info,
            previous_epoch=previous_epoch,
            replay_capacity=ring_bytes,
            heartbeat_ms=round(heartbeat_s * 1000),
            tokens_included=self._veil.privacy in {Privacy.FULL, Privacy.ENCRYPTED},
            privacy=self._veil.privacy.value,
        )
        self._transport = transport
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._topic = topic_of(stream)
        self._lock = threading.Lock()
        self._told = threading.Condition(self._lock)
        self._sender_waits = False
        self._outbox = Outbox(max_queued_events)
        self._residents = ResidentSet()
        self._closing = False
        self._late_events = 0
        self._ring = ReplayRing(ring_bytes)
        self._control = self._control_server()
        self._sender: threading.Thread | None = None
        self._address: StreamAddress | None = None
        self._frames = self._events = self._bytes_sent = self._tombstones = 0
        self._unencodable = self._send_failures = self._heartbeats = 0
        self._is_failing = False
        """The last frame was not sent, and that was told of."""

    def start(self) -> None:
        """Listen and begin to send; what was told before is sent now.

        Raises:
            TransportError: the endpoints are taken or may not be used.
            EpochFileError: the file with the last epoch cannot be used.
        """
        assert self._sender is None, "start() is called once"
        try:
            self._outgrow(self._transport.last_epoch())
            endpoints = self._transport.bind(self._control.answer)
        except KvEventsError:
            self._transport.close()
            raise
        self._info = replace(self._info, replay_endpoint=endpoints.control)
        self._address = StreamAddress(
            self.stream, self.epoch, self._transport.kind, endpoints.live, endpoints.control
        )
        self._sender = threading.Thread(target=self._run, name="kv-events-sender", daemon=True)
        self._sender.start()

    def _outgrow(self, remembered: int) -> None:
        """Let this epoch be higher than any that a reader may have seen."""
        last = max(remembered, self._info.previous_epoch)
        self.epoch = max(self.epoch, last + 1)
        if self._epoch_file is not None:
            claimed, self.epoch = self._epoch_file.claim(self.epoch)
            last = max(last, claimed)
        self._info = replace(self._info, previous_epoch=last)
        self._control = self._control_server()

    def _control_server(self) -> ControlServer:
        return ControlServer(
            self.stream,
            self.epoch,
            self._ring,
            head_seq=lambda: self.head_seq,
            snapshot=self._take_snapshot,
            seal=lambda run: self._veil.seal(run, self.stream, self.epoch),
        )

    @property
    def address(self) -> StreamAddress:
        """Where this epoch can be read; there is none before `start`."""
        assert self._address is not None, "start() comes first"
        return self._address

    @property
    def head_seq(self) -> int:
        """The last number reserved."""
        return self._outbox.head_seq

    @property
    def counters(self) -> PublisherCounters:
        """Cheap; from any thread."""
        return PublisherCounters(
            frames=self._frames,
            events=self._events,
            bytes_sent=self._bytes_sent,
            dropped_events=self._outbox.dropped_events + self._late_events,
            tombstones=self._tombstones,
            unencodable_frames=self._unencodable,
            send_failures=self._send_failures,
            heartbeats=self._heartbeats,
            replays=self._control.replays,
            snapshots=self._control.snapshots,
            refused_requests=self._control.refused,
            refused_readers=self._transport.num_refused,
        )

    @property
    def backlog(self) -> Backlog:
        """What waits here and on the wire; from any thread."""
        with self._lock:
            oldest_ns = self._outbox.oldest_unix_ns
            age_ns = 0 if oldest_ns is None else max(0, self._clock() - oldest_ns)
            here = Backlog(len(self._outbox), self._outbox.num_bytes, age_ns / 1e9)
        return here.with_other(self._transport.backlog)

    def publish(self, events: Sequence[BlockEvent]) -> None:
        """Tell what the cache did, in its order; from any thread, never waits, never fails.

        The events of one call leave in one frame.  Their arrays must not change afterwards.
        """
        events = self._veil.hide(events)
        if not events:
            return
        with self._lock:
            if self._closing:
                self._late_events += len(events)
                return
            for event in events:
                self._residents.apply(event)
            if not self._outbox.add_events(events, self._clock()):
                self._forget(self._unencodable_blocks(events))
            self._wake_sender()

    def publish_turn(self, turn: TurnCompleted) -> None:
        """Tell that a request ended, after the events of its blocks; as `publish`."""
        self._publish_body(turn)

    def publish_notice(self, notice: Notice) -> None:
        """Tell what memory tells a session; as `publish`."""
        self._publish_body(notice)

    def close(self, reason: str, *, timeout_s: float = 5.0) -> None:
        """Send what waits and a goodbye, then free the endpoints; twice is harmless.

        Returns after `timeout_s` even if the transport does not let go.
        """
        with self._lock:
            if not self._closing:
                self._closing = True
                self._outbox.add(Goodbye(reason), self._clock(), even_if_full=True)
                self._wake_sender()
        if self._sender is None:
            return
        self._sender.join(timeout_s)
        if self._sender.is_alive():
            logger.warning(
                "the transport did not let go in time", extra={"stream": str(self.stream)}
            )

    def _wake_sender(self) -> None:
        if self._sender_waits:
            self._told.notify()

    def _publish_body(self, body: TurnCompleted | Notice) -> None:
        with self._lock:
            if self._closing:
                self._late_events += 1
                return
            self._outbox.add(self._veil.hide_body(body), self._clock())
            self._wake_sender()

    def _take_snapshot(self) -> tuple[int, ResidentView]:
        with self._lock:
            self._outbox.seal()
            return self._outbox.head_seq, self._residents.view()

    # ---- The sender's thread

    def _run(self) -> None:
        try:
            self._send_numbered(NumberedBody(1, 1, self._clock(), self._info))
            heartbeat_due = time.monotonic() + self._heartbeat_s
            while (due := self._wait(heartbeat_due)) is not None:
                if isinstance(due, NumberedBody):
                    self._send_numbered(due)
                else:
                    self._send_heartbeat(due)
                    heartbeat_due = time.monotonic() + self._heartbeat_s
        except Exception:
            logger.exception("the stream ends here", extra={"stream": str(self.stream)})
        finally:
            self._transport.close()

    def _wait(self, heartbeat_due: float) -> NumberedBody | Heartbeat | None:
        """What to send next; None after the goodbye.

        A heartbeat is due only when everything up to the head was sent, so that
        its digest is that of the head.
        """
        with self._lock:
            if not self._outbox and not self._closing:
                self._sender_waits = True
                self._told.wait(max(0.0, heartbeat_due - time.monotonic()))
                self._sender_waits = False
            numbered = self._outbox.take()
            if numbered is not None or self._closing:
                return numbered
            return Heartbeat(
                head_seq=self._outbox.head_seq,
                first_available=self._ring.first_available,
                tiers=self._residents.digest(),
                dropped_total=self._outbox.dropped_events,
                control=self._info.replay_endpoint,
            )

    def _send_numbered(self, numbered: NumberedBody) -> None:
        try:
            payload = self._encode(numbered)
        except CodecError as error:
            numbered = self._give_up(numbered, error)
            payload = self._encode(numbered)
        self._ring.append(numbered.first_seq, numbered.seq, payload)
        self._frames += 1
        if isinstance(numbered.body, Tombstone):
            self._tombstones += 1
        else:
            self._events += numbered.num_events
        self._send(payload, f"{self.epoch}:{numbered.seq}")

    def _send_heartbeat(self, heartbeat: Heartbeat) -> None:
        self._heartbeats += 1
        self._send(encode_frame(self._frame(heartbeat.head_seq, self._clock(), heartbeat)))

    def _send(self, payload: bytes, frame_id: str = "") -> None:
        try:
            self._transport.send(self._topic, payload, frame_id)
        except TransportError as error:
            self._send_failures += 1
            if not self._is_failing:
                logger.warning("frames not sent: %s", error, extra={"stream": str(self.stream)})
            self._is_failing = True
        else:
            self._is_failing = False
            self._bytes_sent += len(payload)

    def _encode(self, numbered: NumberedBody) -> bytes:
        body = self._veil.seal_body(numbered.body, self.stream, self.epoch)
        return encode_frame(self._frame(numbered.seq, numbered.ts_unix_ns, body))

    def _give_up(self, numbered: NumberedBody, error: CodecError) -> NumberedBody:
        """The tombstone of a frame that has no bytes."""
        self._unencodable += 1
        logger.warning(
            "frame replaced by a tombstone: %s",
            error,
            extra={"stream": str(self.stream), "sequence": numbered.seq},
        )
        if isinstance(numbered.body, BlockBatch):
            blocks = self._unencodable_blocks(numbered.body.events)
            with self._lock:
                self._forget(blocks)
        return replace(numbered, body=Tombstone(numbered.first_seq, numbered.seq, "not encodable"))

    def _unencodable_blocks(self, events: Sequence[BlockEvent]) -> list[BlocksRemoved]:
        """Blocks that no frame can name, which a snapshot must not try to name either."""
        return [
            BlocksRemoved(event.block_hashes, event.tier, group=event.group)
            for event in events
            if isinstance(event, BlocksStored) and not self._encodable(event)
        ]

    def _forget(self, blocks: Sequence[BlocksRemoved]) -> None:
        for each in blocks:
            self._residents.apply(each)

    def _encodable(self, event: BlockEvent) -> bool:
        try:
            encode_frame(self._frame(1, 1, BlockBatch((event,))))
        except CodecError:
            return False
        return True

    def _frame(self, seq: int, ts_unix_ns: int, body: Body) -> Frame:
        return Frame(self.stream, self.epoch, seq, ts_unix_ns, body)
