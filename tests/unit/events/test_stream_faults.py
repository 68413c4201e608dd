"""Rows 1-4, 13, 14 and 17 of the fault table, in any order and together.

The oracle is what the publisher was told.  Between the steps the checks of etcd's
robustness suite hold: *ordered* and *unique* (`Reader.read` asserts both), *atomic*
(a frame's events are applied together), *resumable* (readers come and go with a
position); at each `settle` the stream is *reliable*: a reader that says LIVE holds
exactly the truth.
"""

from __future__ import annotations

import asyncio
from array import array
from contextlib import AsyncExitStack
from random import Random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from faulty_stream import FaultyStream, block_events
from shepherd_events.codec import encode_frame
from shepherd_events.codec.checksums import SIZE_BYTES, with_checksum
from shepherd_events.events import BlockBatch, BlockEvent, BlocksStored, Frame, Goodbye, Tier
from shepherd_events.resident_set import ResidentSet
from shepherd_events.subscriber import Position, StreamState
from shepherd_events.transports.memory import FaultyWire
from shepherd_events.transports.protocol import topic_of
from stream_readers import STREAM, Reader, removed, stored, turn

PLACE = "memory://here"
TOO_LARGE = 1_100_000
"""Tokens that no frame can hold."""


class StreamUnderFaults(RuleBasedStateMachine):
    """One publisher, one reader, a wire, and everything that can happen to them."""

    @initialize(
        seed=st.integers(0, 2**16),
        ring_bytes=st.sampled_from([1, 500, 1 << 20]),
        queued=st.sampled_from([6, 1000]),
        buffered=st.sampled_from([1, 1000]),
    )
    def begin(self, seed: int, ring_bytes: int, queued: int, buffered: int) -> None:
        self.wire = FaultyWire(Random(seed))
        self.stream = FaultyStream(
            self.wire, ring_bytes=ring_bytes, queued=queued, buffered=buffered
        )
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.old_frames: list[bytes] = []
        self.held = ResidentSet()
        self.reader = self._join(None, ResidentSet())

    @rule(events=st.lists(block_events(), min_size=1, max_size=6))
    def publish(self, events: list[BlockEvent]) -> None:
        self.stream.publish(events)

    @rule()
    def complete_a_turn(self) -> None:
        self.stream.publisher.publish_turn(turn(1))

    @rule(loss=st.sampled_from([0.0, 0.01, 0.3]), requests=st.sampled_from([0.0, 0.2]))
    def row_1_lose(self, loss: float, requests: float) -> None:
        self.wire.loss, self.wire.request_loss = loss, requests

    @rule()
    def row_1_lose_the_last_frame(self) -> None:
        before, self.wire.loss = self.wire.loss, 1.0
        frames = self.stream.publisher.counters.frames
        self.stream.publish([stored(7)])
        self._read_for(0.002)
        while self.stream.publisher.counters.frames == frames:
            self._read_for(0.001)
        self.wire.loss = before

    @rule(duplication=st.sampled_from([0.0, 0.3]), reordering=st.sampled_from([0.0, 0.3]))
    def row_2_repeat_and_reorder(self, duplication: float, reordering: float) -> None:
        self.wire.duplication, self.wire.reordering = duplication, reordering

    @rule(clock_step=st.sampled_from([-500, 0, 1, 60]), goodbye=st.booleans())
    def row_3_restart(self, clock_step: int, goodbye: bool) -> None:
        before = self.stream.publisher.epoch
        self.old_frames.append(self._frame(removed(1, 2, 3), before, 2))
        self.old_frames.append(self._frame(stored(39), before, self.stream.publisher.head_seq + 1))
        self.stream.restart(clock_step=clock_step, goodbye=goodbye)

        assert self.stream.publisher.epoch > before

    @precondition(lambda self: self.old_frames)
    @rule()
    def row_4_hear_a_zombie(self) -> None:
        for frame in self.old_frames:
            self._send(frame)

    @rule(size=st.sampled_from(["no hash", "no frame holds it"]))
    def row_13_tell_what_cannot_be_encoded(self, size: str) -> None:
        too_large = BlocksStored(array("Q", [77]), None, array("I", bytes(4 * TOO_LARGE)), 0)
        self.stream.publisher.publish([stored(0) if size == "no hash" else too_large])

    @rule(garbage=st.binary(max_size=40), cut=st.integers(0, 60))
    def row_13_hear_garbage(self, garbage: bytes, cut: int) -> None:
        epoch, seq = self.stream.publisher.epoch, self.stream.publisher.head_seq
        whole = self._frame(stored(38), epoch, seq + 1)
        self._send(garbage)
        self._send(whole[:cut])
        unknown_features = b"\x30\x80\x80\x80\x80\x08"  # required_features: 1 << 31
        self._send(with_checksum(whole[:-SIZE_BYTES], unknown_features))

    @rule(corruption=st.sampled_from([0.0, 0.05, 0.5]))
    def row_13_flip_bits(self, corruption: float) -> None:
        self.wire.corruption = corruption

    @rule()
    def row_14_overflow(self) -> None:
        before = self.stream.publisher.counters.dropped_events
        flood = [stored(number % 40 + 1) for number in range(self.stream.queued + 1)]
        self.stream.publish(list(flood))

        assert self.stream.publisher.counters.dropped_events == before + len(flood)

    @rule(block_hash=st.integers(1, 40))
    def row_17_corrupt_the_readers_set(self, block_hash: int) -> None:
        is_held = block_hash in self.held.hashes()
        self.held.apply(removed(block_hash) if is_held else stored(block_hash))

    @rule(seconds=st.sampled_from([0.001, 0.004]))
    def read(self, seconds: float) -> None:
        self._read_for(seconds)

    @rule()
    def row_5_come_back_with_a_position(self) -> None:
        position, residents = self.reader.position, self.reader.residents
        self.runner.run(self.stack.aclose())
        self.reader = self._join(position, residents)

    @rule()
    def settle(self) -> None:
        self.wire.loss = min(self.wire.loss, 0.2)
        self.wire.corruption = min(self.wire.corruption, 0.05)
        try:
            self.runner.run(self.reader.read_until(self._has_converged))
        except TimeoutError:
            raise AssertionError(self._report()) from None

        for tier in Tier:
            assert self.held.hashes(tier) == self.stream.truth.hashes(tier)
            assert self.reader.residents.hashes(tier) == self.stream.truth.hashes(tier)

    def teardown(self) -> None:
        if not hasattr(self, "runner"):
            return
        try:
            self.settle()
        finally:
            self.runner.run(self.stack.aclose())
            self.runner.close()
            self.stream.publisher.close("done")

    def _has_converged(self) -> bool:
        publisher = self.stream.publisher
        return (
            self.reader.subscription.state is StreamState.LIVE
            and self.reader.position == Position(publisher.epoch, publisher.head_seq)
            and self.held.digest() == self.stream.truth.digest()
        )

    def _report(self) -> str:
        subscription = self.reader.subscription
        return (
            f"no convergence: {subscription.state} at {self.reader.position} of "
            f"{self.stream.publisher.epoch}, {self.stream.publisher.head_seq}; truth "
            f"{self.stream.truth}, publisher {self.stream.publisher._residents}, held {self.held}; "
            f"{subscription.counters}"
        )

    def _join(self, after: Position | None, residents: ResidentSet) -> Reader:
        return self.runner.run(self.stream.reader(self.stack, after, residents, self.held))

    def _read_for(self, seconds: float) -> None:
        async def read() -> None:
            pending = asyncio.ensure_future(self.reader.read())
            await asyncio.wait([pending], timeout=seconds)
            pending.cancel()
            await asyncio.wait([pending])
            if not pending.cancelled() and (error := pending.exception()):
                raise error

        self.runner.run(read())

    def _frame(self, event: BlockEvent, epoch: int, seq: int) -> bytes:
        return encode_frame(Frame(STREAM, epoch, seq, 1, BlockBatch((event,))))

    def _send(self, payload: bytes) -> None:
        self.stream.broker.send(PLACE, topic_of(STREAM), payload)


TestStreamUnderFaults = StreamUnderFaults.TestCase
TestStreamUnderFaults.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


async def test_row_4_frames_of_a_zombie_are_duplicates_and_nothing_else() -> None:
    stream = FaultyStream(FaultyWire(Random(1)), ring_bytes=1 << 20, queued=100, buffered=100)
    async with AsyncExitStack() as stack:
        reader = await stream.reader(stack, None, ResidentSet())
        first = stream.publisher.epoch
        stream.restart()
        stream.publish([stored(1)])
        await reader.read_up_to(2)
        before = reader.subscription.counters.duplicates
        zombie = Frame(STREAM, first, 9, 1, Goodbye("I am still here"))
        stream.broker.send(PLACE, topic_of(STREAM), encode_frame(zombie))
        stream.publish([stored(2)])
        await reader.read_up_to(3)

        assert reader.subscription.counters.duplicates > before
        assert {frame.epoch for frame in reader.frames} == {stream.publisher.epoch}
    stream.publisher.close("done")
