"""Frames as tests read them, and blocks as tests write them."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable

from shepherd_events.codec import decode_frame, decode_reply, encode_request
from shepherd_events.control import ReplayReply, ReplayRequest, Status
from shepherd_events.events import (
    Attribution,
    BlockHash,
    BlocksRemoved,
    BlocksStored,
    Frame,
    StreamId,
    StreamInfo,
    Tier,
    TurnCompleted,
)
from shepherd_events.resident_set import ResidentSet
from shepherd_events.stream_cursor import Position
from shepherd_events.subscriber import Reset, StreamState, Subscription

STREAM = StreamId("worker-1", 0)
INFO = StreamInfo(model="model-1", block_size=2, hash_algo="blake2b-64/v1")
DEADLINE_S = 10.0


def stored(*hashes: int, parent: int | None = None, tier: Tier = Tier.DEVICE) -> BlocksStored:
    """A run of blocks of two tokens."""
    tokens = array("I", [token % 2**32 for h in hashes for token in (h, h + 1)])
    start = 0 if parent is None else parent
    return BlocksStored(
        array("Q", hashes), None if parent is None else BlockHash(parent), tokens, start, tier
    )


def removed(*hashes: int, tier: Tier = Tier.DEVICE) -> BlocksRemoved:
    return BlocksRemoved(array("Q", hashes), tier)


def turn(number: int, *, tail_tokens: int = 0) -> TurnCompleted:
    """A turn that leaves as a frame of its own."""
    return TurnCompleted(
        origin=Attribution(f"request-{number}", "session-1", "tenant-1", number),
        prompt_tokens=tail_tokens,
        cached_tokens=0,
        generated_tokens=0,
        last_block_hash=None,
        num_full_blocks=0,
        tail_token_ids=array("I", bytes(4 * tail_tokens)),
        finish_reason="stop",
        started_unix_ns=1,
    )


def replay(answer: Callable[[bytes], bytes], epoch: int, from_seq: int = 1) -> list[Frame]:
    """Every frame that a control server still has."""
    frames: list[Frame] = []
    while True:
        request = ReplayRequest(STREAM, epoch, from_seq, 1 << 20)
        reply = decode_reply(answer(encode_request(request)))
        assert isinstance(reply, ReplayReply)
        assert reply.status is Status.OK
        frames.extend(decode_frame(payload) for payload in reply.frames)
        if reply.next_seq > reply.head_seq:
            return frames
        from_seq = reply.next_seq


def wait_until(condition: Callable[[], bool]) -> None:
    """Block until something is so; fails after a deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.001)


async def until(condition: Callable[[], bool]) -> None:
    """As `wait_until`, while the event loop goes on."""
    await asyncio.to_thread(wait_until, condition)


class Reader:
    """Reads a subscription into a resident set, and checks what every reader may rely on."""

    def __init__(self, subscription: Subscription, residents: ResidentSet | None = None) -> None:
        self.subscription = subscription
        self.residents = residents or ResidentSet()
        self.frames: list[Frame] = []
        self.resets: list[Reset] = []
        self._after = subscription.position

    @property
    def position(self) -> Position:
        """Of the last item that was applied."""
        return self._after

    @property
    def numbers(self) -> list[int]:
        """Of the frames that were handed out."""
        return [frame.seq for frame in self.frames]

    async def read(self) -> Frame | Reset:
        async with asyncio.timeout(DEADLINE_S):
            item = await anext(self.subscription)
        if isinstance(item, Reset):
            assert item.epoch >= self._after.epoch
            self.resets.append(item)
            self.residents = ResidentSet(item.blocks)
        else:
            expected = (self._after.epoch, self._after.seq + 1)
            assert (item.epoch, item.seq) == expected, "a frame was skipped or repeated"
            self.frames.append(item)
            for event in getattr(item.body, "events", ()):
                self.residents.apply(event)
        self._after = self.subscription.position
        return item

    async def read_until(self, condition: Callable[[], bool]) -> None:
        """Read until something is so, also where nothing more is handed out."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                pending = asyncio.ensure_future(self.read())
                while not pending.done() and not condition():
                    await asyncio.wait([pending], timeout=0.005)
                if not pending.done():
                    pending.cancel()
                    await asyncio.wait([pending])
                elif error := pending.exception():
                    raise error

    async def read_up_to(self, seq: int) -> None:
        """Read until everything up to a number was handed out, and the stream is live."""
        await self.read_until(
            lambda: self._after.seq >= seq and self.subscription.state is StreamState.LIVE
        )
