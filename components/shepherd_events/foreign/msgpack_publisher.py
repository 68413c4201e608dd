"""Publishes block events as vLLM does, for readers that know its form and not ours.

    live     [topic, seq, payload]                            PUB -> SUB
    replay   [first seq]                                      asked of a ROUTER
             [topic, seq, payload] ..., ["", -1, ""]          its answers

`seq` are eight big-endian bytes, counted from 0.  As `KvEventPublisher` it never
makes the engine wait.  The form has neither tombstones nor snapshots: when the
queue was full, readers are told that all is gone and then what there is.
Replays are sent from a thread of their own and wait for their reader, so that
they are whole; a reader that takes nothing for a while is given up.

Source: the protocol of vllm/distributed/kv_events.py (0.32).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import zmq

from shepherd_events.errors import TransportError
from shepherd_events.events import (
    BlockEvent,
    BlocksCleared,
    BlocksReused,
    BlocksStored,
    TurnCompleted,
)
from shepherd_events.foreign.msgpack_counters import MsgpackCounters
from shepherd_events.foreign.msgpack_endpoint import MsgpackEndpoint
from shepherd_events.foreign.msgpack_form import encode_batch
from shepherd_events.foreign.msgpack_ring import MessageRing
from shepherd_events.foreign.outgoing import (
    ForeignMap,
    SaltOf,
    foreign_of,
    removals_of_tier,
)
from shepherd_events.foreign.told_blocks import ToldBlocks
from shepherd_events.resident_set import ResidentSet

logger = logging.getLogger(__name__)

END_OF_REPLAY = (-1).to_bytes(8, "big", signed=True)

_MESSAGE_EVENTS = 256
"""Events that leave together at most."""
_HWM_MESSAGES = 100_000
_UNREAD_REPLIES = 1000
_REPLY_TIMEOUT_MS = 5000
_LINGER_MS = 500


class MsgpackPublisher:
    """One stream in vLLM's form; `start` it, tell it, `close` it."""

    def __init__(
        self,
        endpoint: MsgpackEndpoint,
        *,
        dp_rank: int = 0,
        salt_of: SaltOf = lambda _: None,
        clock: Callable[[], float] = time.time,
        max_queued_events: int = 100_000,
        ring_messages: int = 10_000,
        ring_bytes: int = 64 << 20,
    ) -> None:
        """`clock` gives Unix seconds; `salt_of` is asked in the sender's thread."""
        self._endpoint = endpoint
        self._dp_rank = dp_rank
        self._salt_of = salt_of
        self._clock = clock
        self._max_queued_events = max_queued_events
        self._told = threading.Condition(threading.Lock())
        self._queue: deque[BlockEvent] = deque()
        self._residents = ResidentSet()
        self._known = ToldBlocks()
        """The sender's."""
        self._overflowed = self._closing = False
        self._ring = MessageRing(ring_messages, ring_bytes)
        self._next_seq = 0
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._threads: list[threading.Thread] = []
        self.live = self.replay = ""
        """Endpoints, known after `start`; there may be no replay."""
        self._events = self._dropped = self._withheld = 0
        self._replays = self._unfinished = self._send_failures = 0

    def start(self) -> None:
        """Listen and begin to send; what was told before is sent now.

        Raises:
            TransportError: a port is taken.
        """
        assert self._context is None, "start() is called once"
        self._context = context = zmq.Context()
        # A listener takes a copy for its connections: set later, one that breaks now lingers for ever.
        context.linger = _LINGER_MS
        try:
            live = self._listen(zmq.PUB, self._endpoint.port, _HWM_MESSAGES)
            self.live = live.getsockopt_string(zmq.LAST_ENDPOINT)
            self._thread("kv-events-msgpack", self._run, live)
            if self._endpoint.replay_port is not None:
                replay = self._listen(zmq.ROUTER, self._endpoint.replay_port, _UNREAD_REPLIES)
                self.replay = replay.getsockopt_string(zmq.LAST_ENDPOINT)
                self._thread("kv-events-msgpack-replay", self._serve, replay)
        except TransportError:
            context.destroy(linger=0)
            self._context = None
            raise
        for thread in self._threads:
            thread.start()

    @property
    def counters(self) -> MsgpackCounters:
        """Cheap; from any thread."""
        return MsgpackCounters(
            messages=self._next_seq,
            events=self._events,
            dropped_events=self._dropped,
            withheld_events=self._withheld,
            replays=self._replays,
            unfinished_replays=self._unfinished,
            send_failures=self._send_failures,
        )

    def publish(self, events: Sequence[BlockEvent]) -> None:
        """Tell what the cache did, in its order; from any thread, never waits, never fails."""
        with self._told:
            if self._closing:
                return
            for event in events:
                self._add(event)
            self._told.notify()

    def publish_turn(self, turn: TurnCompleted) -> None:
        """Turns have no form here."""

    def close(self, *, timeout_s: float = 5.0) -> None:
        """Send what waits, then free the ports; twice is harmless."""
        with self._told:
            self._closing = True
            self._told.notify()
        if self._context is None:
            return
        sender, *others = self._threads
        sender.join(timeout_s)
        self._context.term()
        self._context = None
        for thread in others:
            thread.join(timeout_s)

    def _add(self, event: BlockEvent) -> None:
        if isinstance(event, BlocksReused):
            return
        told: list[BlockEvent] = [event]
        if isinstance(event, BlocksCleared) and event.tier is not None:
            told = [*removals_of_tier(list(self._residents.snapshot()), event.tier)]
        self._residents.apply(event)
        if self._overflowed or len(self._queue) + len(told) > self._max_queued_events:
            self._dropped += len(told) + len(self._queue)
            self._queue.clear()
            self._overflowed = True
        else:
            self._queue.extend(told)

    # ---- The sender's thread

    def _run(self, live: zmq.Socket[bytes]) -> None:
        try:
            while (events := self._take()) is not None:
                self._send(live, events)
        except Exception:
            logger.exception("the stream in vLLM's form ends here")
        finally:
            live.close()

    def _take(self) -> list[BlockEvent] | None:
        """What leaves together; None when all is sent and nothing more will come."""
        with self._told:
            self._told.wait_for(lambda: self._queue or self._overflowed or self._closing)
            if self._overflowed:
                self._overflowed = False
                return [BlocksCleared(), *self._residents.snapshot()]
            taken = min(len(self._queue), _MESSAGE_EVENTS)
            return [self._queue.popleft() for _ in range(taken)] or None

    def _send(self, live: zmq.Socket[bytes], events: list[BlockEvent]) -> None:
        maps = list(self._maps(events))
        for start in range(0, len(maps), _MESSAGE_EVENTS):
            self._send_message(live, maps[start : start + _MESSAGE_EVENTS])

    def _maps(self, events: Iterable[BlockEvent]) -> Iterable[ForeignMap]:
        for event in events:
            salt_id = event.context.cache_salt_id if isinstance(event, BlocksStored) else b""
            if salt_id and self._salt_of(salt_id) is None:
                self._withheld += 1
                continue
            for news in self._known.news(event):
                told = foreign_of(news, self._salt_of)
                if told is not None:
                    yield told

    def _send_message(self, live: zmq.Socket[bytes], maps: list[ForeignMap]) -> None:
        payload = encode_batch(self._clock(), maps, self._dp_rank)
        self._ring.append(self._next_seq, payload)
        message = (self._endpoint.topic.encode(), self._next_seq.to_bytes(8, "big"), payload)
        self._next_seq += 1
        self._events += len(maps)
        try:
            live.send_multipart(message, zmq.NOBLOCK)
        except zmq.ZMQError as error:
            self._send_failures += 1
            logger.warning("message not sent: %s", error)

    # ---- The replay's thread

    def _serve(self, replay: zmq.Socket[bytes]) -> None:
        replay.router_mandatory = 1
        replay.sndtimeo = _REPLY_TIMEOUT_MS
        try:
            while True:
                match replay.recv_multipart():
                    case [reader, b"", first] if len(first) == 8:
                        self._replay(replay, reader, int.from_bytes(first, "big"))
                    case parts:
                        logger.debug("foreign request skipped", extra={"num_parts": len(parts)})
        except zmq.ContextTerminated:
            pass
        except Exception:
            logger.exception("no replay in vLLM's form will be answered any more")
        finally:
            replay.close(linger=0)

    def _replay(self, replay: zmq.Socket[bytes], reader: bytes, first: int) -> None:
        self._replays += 1
        topic = self._endpoint.topic.encode()
        try:
            for seq, payload in self._ring.since(first):
                replay.send_multipart((reader, b"", topic, seq.to_bytes(8, "big"), payload))
            replay.send_multipart((reader, b"", b"", END_OF_REPLAY, b""))
        except zmq.ContextTerminated:
            raise
        except zmq.ZMQError as error:
            self._unfinished += 1
            logger.warning("replay given up: %s", error)

    def _listen(self, kind: int, port: int, hwm_messages: int) -> zmq.Socket[bytes]:
        assert self._context is not None
        host = f"[{self._endpoint.host}]" if ":" in self._endpoint.host else self._endpoint.host
        socket = self._context.socket(kind)
        socket.set_hwm(hwm_messages)
        socket.ipv6 = ":" in self._endpoint.host
        try:
            socket.bind(f"tcp://{host}:{port}")
        except zmq.ZMQError as error:
            raise TransportError(f"cannot listen on tcp://{host}:{port}: {error}") from error
        return socket

    def _thread(
        self, name: str, run: Callable[[zmq.Socket[bytes]], None], socket: zmq.Socket[bytes]
    ) -> None:
        self._threads.append(threading.Thread(target=run, args=(socket,), name=name, daemon=True))
