"""After any faults, a reader that is live holds what the publisher holds.

The checks are etcd's: every run is *ordered* and *unique* (`Reader.read` asserts
both), *atomic* (a frame's events are applied together), *resumable* (readers
come and go with a position) and *reliable* (the sets are equal in the end).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faulty_stream import FaultyStream, block_events
from shepherd_events.events import BlockEvent, BlocksStored, Tier
from shepherd_events.resident_set import ResidentSet
from shepherd_events.subscriber import Position, ResetReason, StreamState
from shepherd_events.transports.memory import FaultyWire
from stream_readers import DEADLINE_S, Reader, removed, stored, turn

steps = st.one_of(
    st.lists(block_events(), min_size=1, max_size=6),
    st.lists(block_events(), min_size=1, max_size=6),
    st.lists(block_events(), min_size=1, max_size=6),
    st.sampled_from(["turn", "read", "read", "rejoin", "restart"]),
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(steps, max_size=40),
    seed=st.integers(0, 2**16),
    loss=st.sampled_from([0.0, 0.05, 0.5]),
    duplication=st.sampled_from([0.0, 0.3]),
    reordering=st.sampled_from([0.0, 0.3]),
    request_loss=st.sampled_from([0.0, 0.2]),
    ring_bytes=st.sampled_from([1, 500, 1 << 20]),
    queued=st.sampled_from([6, 1000]),
    buffered=st.sampled_from([1, 1000]),
)
def test_a_reader_that_is_live_in_the_end_holds_what_the_publisher_holds(
    steps: list[list[BlockEvent] | str],
    seed: int,
    loss: float,
    duplication: float,
    reordering: float,
    request_loss: float,
    ring_bytes: int,
    queued: int,
    buffered: int,
) -> None:
    wire = FaultyWire(Random(seed), loss, duplication, reordering, request_loss)
    stream = FaultyStream(wire, ring_bytes=ring_bytes, queued=queued, buffered=buffered)
    try:
        asyncio.run(_run(stream, iter(steps)))
    finally:
        stream.publisher.close("done")


async def _run(stream: FaultyStream, steps: Iterator[list[BlockEvent] | str]) -> None:
    async with AsyncExitStack() as stack:
        reader = await stream.reader(stack, None, ResidentSet())
        for step in steps:
            if isinstance(step, list):
                stream.publish(step)
            elif step == "turn":
                stream.publisher.publish_turn(turn(1))
            elif step == "restart":
                stream.restart()
            elif step == "read":
                pending = asyncio.ensure_future(reader.read())
                await asyncio.wait([pending], timeout=0.003)
                pending.cancel()
                await asyncio.wait([pending])
            else:
                await stack.aclose()
                reader = await stream.reader(stack, reader.subscription.position, reader.residents)
        stream.wire.loss = min(stream.wire.loss, 0.2)
        head = Position(stream.publisher.epoch, stream.publisher.head_seq)
        await reader.read_until(
            lambda: (
                reader.subscription.position == head
                and reader.subscription.state is StreamState.LIVE
            )
        )
        assert reader.residents.digest() == stream.truth.digest()
        for tier in Tier:
            assert reader.residents.hashes(tier) == stream.truth.hashes(tier)


async def test_readers_follow_while_a_thread_publishes_faster_than_the_queue_takes() -> None:
    wire = FaultyWire(Random(7), loss=0.02, duplication=0.02, reordering=0.02)
    stream = FaultyStream(wire, ring_bytes=20_000, queued=40, buffered=20)

    def tell() -> None:
        for number in range(1, 3001):
            parent = number - 1 if number % 7 > 1 else None
            stream.publish([_run_of(number, parent)])
            if number > 100:
                stream.publish([removed(number - 100)])
            if number % 30 == 0:
                time.sleep(0.001)  # bursts, so that replays and snapshots alternate

    teller = threading.Thread(target=tell)
    async with AsyncExitStack() as stack:
        readers = [await stream.reader(stack, None, ResidentSet()) for _ in range(3)]
        teller.start()
        await asyncio.gather(*(_follow(stream, reader, teller) for reader in readers))
        for reader in readers:
            assert reader.residents.hashes() == set(range(2901, 3001))
            assert reader.residents.digest() == stream.truth.digest()
            assert reader.subscription.counters.replays > 1
            assert reader.frames
            assert {reset.reason for reset in reader.resets} <= {
                ResetReason.LOST,
                ResetReason.COMPACTED,
            }
        assert any(reader.resets for reader in readers)
    teller.join()
    stream.publisher.close("done")


def _run_of(number: int, parent: int | None) -> BlocksStored:
    return stored(number, parent=parent)


async def _follow(stream: FaultyStream, reader: Reader, teller: threading.Thread) -> None:
    async with asyncio.timeout(DEADLINE_S * 2):
        while teller.is_alive():
            pending = asyncio.ensure_future(reader.read())
            await asyncio.wait([pending], timeout=0.05)
            if not pending.done():
                pending.cancel()
                await asyncio.wait([pending])
        await reader.read_until(
            lambda: (
                reader.subscription.position.seq == stream.publisher.head_seq
                and reader.subscription.state is StreamState.LIVE
            )
        )
