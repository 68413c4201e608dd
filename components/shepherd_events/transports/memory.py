"""The wire within one process, as unreliable as one asks for.

For tests, demonstrations and a worker that lives beside its reader.  A broker
joins publishers and readers by the name of a place, as a host and port would: a
publisher that comes back under the same name reaches the readers that stayed.
Frames cross from the sender's thread into the reader's event loop through a
bounded queue that drops what does not fit, as a socket would.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from shepherd_events.errors import NoAnswerError, TransportError
from shepherd_events.events import StreamAddress
from shepherd_events.transports.protocol import Backlog, Endpoints, topic_of

DEFAULT_QUEUE_FRAMES = 1000


class Wire(Protocol):
    """What happens to frames, and to requests, on the way to one reader."""

    def carry(self, payload: bytes) -> Iterable[bytes]:
        """What arrives when `payload` is sent: nothing, it, or others as well."""
        ...

    def answers(self) -> bool:
        """Whether the next control request gets through."""
        ...


def flip_bit(payload: bytes, bit: int) -> bytes:
    """`payload` with one bit changed, counted from the lowest of the first byte."""
    altered = bytearray(payload)
    altered[bit // 8] ^= 1 << bit % 8
    return bytes(altered)


class PerfectWire:
    """Everything arrives, once and in order."""

    def carry(self, payload: bytes) -> Iterable[bytes]:
        """Exactly what was sent."""
        return (payload,)

    def answers(self) -> bool:
        """Always."""
        return True


@dataclass(slots=True)
class FaultyWire:
    """Loses, repeats, delays and alters with the given probabilities, 0 to 1."""

    random: Random
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    """A frame that is held back arrives after the next one that is not."""
    corruption: float = 0.0
    """One bit of a frame arrives flipped."""
    request_loss: float = 0.0
    _held: list[bytes] = field(default_factory=list)

    def carry(self, payload: bytes) -> Iterable[bytes]:
        """Whatever chance leaves of it, and of what was held back."""
        if self.random.random() < self.loss:
            return ()
        if payload and self.random.random() < self.corruption:
            payload = flip_bit(payload, self.random.randrange(8 * len(payload)))
        if self.random.random() < self.reordering:
            self._held.append(payload)
            return ()
        arriving = [payload, *self._held]
        self._held.clear()
        if self.random.random() < self.duplication:
            arriving.append(payload)
        return arriving

    def answers(self) -> bool:
        """As chance has it."""
        return self.random.random() >= self.request_loss


@dataclass(slots=True)
class StalledWire:
    """Holds the sender up until the gate is open, as a transport never should."""

    gate: threading.Event

    def carry(self, payload: bytes) -> Iterable[bytes]:
        """What was sent, once the gate is open."""
        self.gate.wait()
        return (payload,)

    def answers(self) -> bool:
        """Always: control goes another way."""
        return True


class MemoryBroker:
    """The places of one process and who is at them; safe for threads."""

    def __init__(
        self,
        wire: Callable[[], Wire] = PerfectWire,
        *,
        queue_frames: int = DEFAULT_QUEUE_FRAMES,
    ) -> None:
        self._wire = wire
        self._queue_frames = queue_frames
        self._lock = threading.Lock()
        self._listeners: dict[str, list[MemorySubscriberTransport]] = {}
        self._answers: dict[str, Callable[[bytes], bytes]] = {}

    def publisher(self, place: str) -> MemoryPublisherTransport:
        """The sending end at a place."""
        return MemoryPublisherTransport(self, place)

    def connect(self, address: StreamAddress) -> MemorySubscriberTransport:
        """The receiving end for a stream; the publisher need not be there yet."""
        transport = MemorySubscriberTransport(self, address, self._wire(), self._queue_frames)
        with self._lock:
            self._listeners.setdefault(address.live, []).append(transport)
        return transport

    def occupy(self, place: str, answer: Callable[[bytes], bytes]) -> None:
        """Let `answer` serve the requests of a place.

        Raises:
            TransportError: somebody else does.
        """
        with self._lock:
            if place in self._answers:
                raise TransportError(f"{place} is taken by another publisher")
            self._answers[place] = answer

    def vacate(self, place: str) -> None:
        """Let nobody answer at a place."""
        with self._lock:
            self._answers.pop(place, None)

    def leave(self, address: StreamAddress, transport: MemorySubscriberTransport) -> None:
        """Let a listener go."""
        with self._lock:
            self._listeners[address.live].remove(transport)

    def send(self, place: str, topic: str, payload: bytes) -> None:
        """Show a frame to everybody who listens at a place."""
        with self._lock:
            listeners = tuple(self._listeners.get(place, ()))
        for listener in listeners:
            listener.hear(topic, payload)

    def answer(self, place: str, payload: bytes) -> bytes | None:
        """The reply of whoever is at a place, one request at a time; None if nobody is."""
        with self._lock:
            answer = self._answers.get(place)
        return None if answer is None else answer(payload)


class MemoryPublisherTransport:
    """The sending end; see `PublisherTransport`."""

    kind = "memory"

    def __init__(self, broker: MemoryBroker, place: str) -> None:
        self._broker = broker
        self._place = f"memory://{place}"
        self._answering = threading.Lock()
        self._bound = False

    @property
    def num_refused(self) -> int:
        """None: whoever is in this process may read."""
        return 0

    @property
    def backlog(self) -> Backlog:
        """See `PublisherTransport.backlog`: what is sent has arrived."""
        return Backlog()

    def last_epoch(self) -> int:
        """Nothing outlives its publisher here."""
        return 0

    def bind(self, answer: Callable[[bytes], bytes]) -> Endpoints:
        """Be at the place."""

        def one_at_a_time(payload: bytes) -> bytes:
            with self._answering:
                return answer(payload)

        self._broker.occupy(self._place, one_at_a_time)
        self._bound = True
        return Endpoints(live=self._place, control=self._place)

    def send(self, topic: str, payload: bytes, frame_id: str = "") -> None:
        """Show a frame to everybody who listens."""
        del frame_id
        self._broker.send(self._place, topic, payload)

    def close(self) -> None:
        """Leave the place."""
        if self._bound:
            self._bound = False
            self._broker.vacate(self._place)


class MemorySubscriberTransport:
    """The receiving end; see `SubscriberTransport`."""

    def __init__(
        self, broker: MemoryBroker, address: StreamAddress, wire: Wire, queue_frames: int
    ) -> None:
        self._broker = broker
        self._address = address
        self._topic = topic_of(address.stream)
        self._wire = wire
        self._queue: deque[bytes] = deque()
        self._queue_frames = queue_frames
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._closed = False

    def hear(self, topic: str, payload: bytes) -> None:
        """Take what the wire makes of a frame; from the sender's thread."""
        if topic != self._topic:
            return
        for arrived in self._wire.carry(payload):
            if len(self._queue) < self._queue_frames:
                self._queue.append(arrived)
        with suppress(RuntimeError):  # the loop ended and nobody closed this end
            self._loop.call_soon_threadsafe(self._arrived.set)

    async def receive(self) -> bytes:
        """The oldest frame that was not dropped."""
        while not self._queue:
            self._arrived.clear()
            await self._arrived.wait()
        return self._queue.popleft()

    def renew(self) -> None:
        """There is no connection that could break."""

    async def request(self, payload: bytes, timeout_s: float) -> bytes:
        """Ask whoever is at the place, in a thread, as a server would answer."""
        unanswered = NoAnswerError(self._address.control, timeout_s)
        if not self._wire.answers():
            raise unanswered
        try:
            async with asyncio.timeout(timeout_s):
                reply = await asyncio.to_thread(self._broker.answer, self._address.control, payload)
        except TimeoutError:
            raise unanswered from None
        if reply is None:
            raise unanswered
        return reply

    async def close(self) -> None:
        """Listen no more."""
        if not self._closed:
            self._closed = True
            self._broker.leave(self._address, self)
