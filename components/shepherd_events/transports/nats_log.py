"""One stream's frames in JetStream: appended in order, read again when their publisher is gone.

A message's id is `EPOCH:SEQ` of its frame.  The broker drops an id that it has
seen, and refuses a frame that does not follow the one its sender believes to be
the last: so a frame that was sent twice is stored once, and of two publishers of
one stream only the later one goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js.api import DiscardPolicy, PubAck, RawStreamMsg, StorageType, StreamConfig

from shepherd_events.codec import decode_frame
from shepherd_events.control import ReplayReply, ReplayRequest, Status
from shepherd_events.errors import CodecError
from shepherd_events.events import Tombstone
from shepherd_events.stream_cursor import Position
from shepherd_events.transports.ack_window import Due
from shepherd_events.transports.nats_connection import Subjects

ACK_TIMEOUT_S = 3.0
DUPLICATE_WINDOW_S = 120.0
_MESSAGE_ID, _EXPECTED_LAST_ID = "Nats-Msg-Id", "Nats-Expected-Last-Msg-Id"
_FETCHED_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Retention:
    """How much one stream's log keeps; the oldest frames leave first."""

    max_bytes: int = 256 << 20
    max_age_s: float = 86_400.0
    replicas: int = 1
    """Brokers that keep it, and of which a minority may die; 1, 3 or 5."""


class NatsLog:
    """See the module's docstring; over a connection that somebody else owns."""

    def __init__(self, client: Client, subjects: Subjects) -> None:
        self._subjects = subjects
        self._jetstream = client.jetstream(timeout=ACK_TIMEOUT_S)

    async def create(self, retention: Retention) -> None:
        """Have the log exist; an existing one keeps what it holds.

        Raises:
            nats.errors.Error: the broker has no JetStream, or does not allow it.
        """
        config = StreamConfig(
            name=self._subjects.log,
            subjects=[self._subjects.live],
            storage=StorageType.FILE,
            discard=DiscardPolicy.OLD,
            max_bytes=retention.max_bytes,
            max_age=retention.max_age_s,
            num_replicas=retention.replicas,
            duplicate_window=min(DUPLICATE_WINDOW_S, retention.max_age_s),
        )
        try:
            await self._jetstream.add_stream(config)
        except nats.js.errors.BadRequestError:
            await self._jetstream.update_stream(config)

    async def append(self, frames: Sequence[Due]) -> int:
        """Store frames in order; how many of them, from the first on, the broker has now."""
        acks = await asyncio.gather(*map(self._publish, frames), return_exceptions=True)
        return next((i for i, ack in enumerate(acks) if isinstance(ack, Exception)), len(acks))

    async def end(self) -> str:
        """The id of the last frame; empty when there is none.

        Raises:
            nats.errors.Error: the broker does not answer.
        """
        try:
            last = await self._jetstream.get_last_msg(self._subjects.log, self._subjects.live)
        except nats.js.errors.NotFoundError:
            return ""
        return _frame_id(last)

    async def replay(self, request: ReplayRequest) -> ReplayReply | None:
        """What the publisher itself would answer; None if the log cannot tell.

        Where a later epoch has begun, who was within an earlier one is given the rest of it
        first: its publisher is gone, and nobody else remembers what it said last.

        Raises:
            nats.errors.Error: the broker does not answer.
        """
        try:
            state = (await self._jetstream.stream_info(self._subjects.log)).state
        except nats.js.errors.NotFoundError:
            return None
        if not state.messages:
            return None
        last = position_of(_frame_id(await self._message(state.last_seq)))
        if last.epoch > request.epoch:
            rest = await self._rest_of_epoch(request, state.first_seq, state.last_seq)
            return rest or ReplayReply(Status.WRONG_EPOCH, last.epoch)
        if last.epoch < request.epoch:
            return None
        wanted = Position(request.epoch, request.from_seq)
        begin = await self._find(wanted, state.first_seq, state.last_seq)
        messages = await self._read(begin, state.last_seq, request.max_bytes)
        return _page(messages, request.from_seq, last)

    async def _rest_of_epoch(
        self, request: ReplayRequest, first: int, last: int
    ) -> ReplayReply | None:
        """What an epoch that is over had to say after a frame of it, where the log has all of that."""
        if request.from_seq <= 1:
            return None
        begin = await self._find(Position(request.epoch, request.from_seq), first, last)
        stop = await self._find(Position(request.epoch + 1, 0), begin, last)
        if begin == stop:
            return None
        end = position_of(_frame_id(await self._message(stop - 1)))
        messages = await self._read(begin, stop - 1, request.max_bytes)
        page = _page(messages, request.from_seq, end)
        return page if page.status is Status.OK else None

    async def _publish(self, due: Due) -> PubAck:
        headers = {_MESSAGE_ID: due.frame.frame_id}
        if due.after:
            headers[_EXPECTED_LAST_ID] = due.after
        return await self._jetstream.publish(
            due.frame.subject, due.frame.payload, timeout=ACK_TIMEOUT_S, headers=headers
        )

    async def _message(self, number: int) -> RawStreamMsg:
        return await self._jetstream.get_msg(self._subjects.log, number)

    async def _find(self, wanted: Position, first: int, last: int) -> int:
        """The log's number of the first frame at `wanted` or beyond; `last + 1` if there is none."""
        while first <= last:
            middle = (first + last) // 2
            here = position_of(_frame_id(await self._message(middle)))
            if (here.epoch, here.seq) < (wanted.epoch, wanted.seq):
                first = middle + 1
            else:
                last = middle - 1
        return first

    async def _read(self, begin: int, last: int, max_bytes: int) -> list[RawStreamMsg]:
        """Messages from `begin` to `last`, at least one if there is any, as many as fit."""
        messages: list[RawStreamMsg] = []
        while begin <= last:
            stop = min(begin + _FETCHED_AT_ONCE, last + 1)
            for message in await asyncio.gather(*map(self._message, range(begin, stop))):
                max_bytes -= len(message.data or b"")
                if messages and max_bytes < 0:
                    return messages
                messages.append(message)
            begin = stop
        return messages


def position_of(frame_id: str) -> Position:
    """Epoch and number in a frame's id; the beginning of time for any other id."""
    epoch, _, seq = frame_id.partition(":")
    return Position(int(epoch), int(seq)) if epoch.isdigit() and seq.isdigit() else Position(0, 0)


def _page(messages: Sequence[RawStreamMsg], from_seq: int, last: Position) -> ReplayReply:
    if messages and _first_seq(messages[0]) > from_seq:
        return ReplayReply(Status.COMPACTED, last.epoch, head_seq=last.seq)
    return ReplayReply(
        Status.OK,
        last.epoch,
        next_seq=position_of(_frame_id(messages[-1])).seq + 1 if messages else from_seq,
        head_seq=last.seq,
        frames=tuple(message.data or b"" for message in messages),
    )


def _frame_id(message: RawStreamMsg) -> str:
    headers: dict[str, str] = message.headers or {}
    return headers.get(_MESSAGE_ID, "")


def _first_seq(message: RawStreamMsg) -> int:
    """The first number that a stored frame stands for."""
    try:
        frame = decode_frame(message.data or b"")
    except CodecError:
        return position_of(_frame_id(message)).seq
    return frame.body.from_seq if isinstance(frame.body, Tombstone) else frame.seq
