"""What a wire between a publisher and its readers has to do.

A live wire sends each frame once, to whoever listens, and may lose, repeat or
reorder it; it never makes the sender wait.  A control wire carries one request
and its reply.  Everything that makes a stream of this, order, completeness and
recovery, is the business of `publisher.py` and `subscriber.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from shepherd_events.events import StreamAddress, StreamId


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a bound publisher can be reached."""

    live: str
    control: str


@dataclass(frozen=True, slots=True)
class Backlog:
    """Frames that were told and are not where they shall go yet."""

    frames: int = 0
    size_bytes: int = 0
    oldest_age_s: float = 0.0
    """How long the first of them has waited; 0 while nothing waits."""

    def with_other(self, other: Backlog) -> Backlog:
        """Both together."""
        return Backlog(
            self.frames + other.frames,
            self.size_bytes + other.size_bytes,
            max(self.oldest_age_s, other.oldest_age_s),
        )


class PublisherTransport(Protocol):
    """The sending end."""

    @property
    def kind(self) -> str:
        """What `StreamAddress.transport` says of it."""
        ...

    @property
    def num_refused(self) -> int:
        """Readers turned away so far; 0 where somebody else decides, such as a broker."""
        ...

    @property
    def backlog(self) -> Backlog:
        """What `send` took and nobody has confirmed; nothing on a wire that confirms nothing."""
        ...

    def last_epoch(self) -> int:
        """The highest epoch of the stream that the wire remembers; 0 where it keeps nothing.

        Raises:
            TransportError: the wire cannot be reached.
        """
        ...

    def bind(self, answer: Callable[[bytes], bytes]) -> Endpoints:
        """Listen, and answer control requests from a thread of its own, one at a time.

        `answer` neither raises nor waits.

        Raises:
            TransportError: the address is taken or may not be used.
        """
        ...

    def send(self, topic: str, payload: bytes, frame_id: str = "") -> None:
        """Send one frame to whoever listens; never waits; from one thread only.

        `frame_id` is `EPOCH:SEQ` of a numbered frame, which a wire that outlives
        the publisher keeps; a heartbeat has none.

        Raises:
            TransportError: the wire is broken; the frame is lost for those who listen.
        """
        ...

    def close(self) -> None:
        """Stop answering and free the endpoints, within a second or so; twice is harmless."""
        ...


class SubscriberTransport(Protocol):
    """The receiving end; belongs to one event loop, connects when it is made."""

    async def receive(self) -> bytes:
        """The next frame that arrives; what nobody fetches in time is dropped."""
        ...

    def renew(self) -> None:
        """Listen over a fresh connection: nothing came over this one for longer than it should.

        What is on its way over the old one is lost.
        """
        ...

    async def request(self, payload: bytes, timeout_s: float) -> bytes:
        """Ask the publisher and wait for the reply; one request at a time.

        Raises:
            NoAnswerError: nobody answered in time.
            TransportError: the wire is broken.
        """
        ...

    async def close(self) -> None:
        """Give everything back, without waiting for the other side; twice is harmless."""
        ...


Connect = Callable[[StreamAddress], SubscriberTransport]
"""How a reader gets its end; called within the event loop that will use it."""


def topic_of(stream: StreamId) -> str:
    """What a stream's frames are sent under."""
    return f"kv.v1.{stream.worker_id}.{stream.dp_rank}"
