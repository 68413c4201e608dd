"""A reader that keeps what is resident finds out that it is wrong, and heals."""

from __future__ import annotations

import asyncio

from shepherd_events.resident_set import ResidentSet
from shepherd_events.subscriber import Position, ResetReason, StreamState
from stream_readers import removed, stored, turn, until
from stream_source import EPOCH, Source, started


async def test_a_block_that_the_reader_lost_is_found_by_the_next_heartbeat_and_healed() -> None:
    """Fault row 17: one block is flipped in the reader's own set."""
    source, held = started(), ResidentSet()
    async with source.reader(residents=held) as reader:
        await reader.read_up_to(3)
        held.apply(removed(2))
        pending = asyncio.ensure_future(reader.read())
        source.heartbeat()
        await pending

        (reset,) = reader.resets
        assert (reset.reason, reset.as_of_seq) == (ResetReason.DIVERGED, 3)
        assert held.digest() == source.residents.digest()
        assert reader.subscription.counters.digest_mismatches == 1
        source.tell(stored(9))
        await reader.read_up_to(4)
        assert held.hashes() == {1, 2, 3, 9}


async def test_equal_digests_leave_a_reader_alone() -> None:
    source, held = started(), ResidentSet()
    async with source.reader(residents=held) as reader:
        await reader.read_up_to(3)
        pending = asyncio.ensure_future(reader.read())
        while reader.subscription.counters.digest_checks < 3:
            source.heartbeat()
            await asyncio.sleep(0)
        source.send(turn(1))
        await pending

        assert reader.resets == []
        assert reader.subscription.counters.digest_mismatches == 0


async def test_a_heartbeat_beyond_the_position_is_not_compared() -> None:
    source, held = started(), ResidentSet()
    async with source.reader(residents=held) as reader:
        await reader.read_up_to(3)
        source.tell(stored(7), live=False)
        source.heartbeat()
        await reader.read_up_to(4)

        assert reader.subscription.counters.digest_checks == 0
        assert held.digest() == source.residents.digest()


async def test_a_reader_that_begins_in_the_middle_is_given_what_it_cannot_know() -> None:
    source, held = started(), ResidentSet()
    async with source.reader(after=Position(EPOCH, 3), residents=held) as reader:
        pending = asyncio.ensure_future(reader.read())
        while not pending.done():
            source.heartbeat()
            await asyncio.sleep(0.001)

        assert reader.resets[0].reason is ResetReason.DIVERGED
        assert held.hashes() == {1, 2, 3}


async def test_from_the_head_on_only_news_is_handed_out() -> None:
    source = started()
    async with source.reader(from_head=True) as reader:
        pending = asyncio.ensure_future(anext(reader.subscription))
        await until(lambda: reader.subscription.state is StreamState.LIVE)
        assert reader.subscription.position == Position(EPOCH, 3)
        source.send(turn(1))

        item = await pending
        assert (reader.subscription.position.seq, item) == (4, item)


async def test_the_head_is_found_though_the_oldest_frames_and_the_epoch_are_others() -> None:
    source = started(ring_bytes=300)
    for number in range(40):
        source.tell(stored(100 + number))
    address = source.address
    source.begin(EPOCH + 5)
    source.ring_bytes = 300
    for number in range(30):
        source.tell(stored(200 + number))
    assert source.ring.first_available > 1
    async with source.reader(Position(address.epoch, 0), from_head=True) as reader:
        pending = asyncio.ensure_future(anext(reader.subscription))
        await until(lambda: reader.subscription.state is StreamState.LIVE)

        assert reader.subscription.position == Position(EPOCH + 5, 30)
        pending.cancel()


async def test_a_publisher_that_is_not_there_yet_is_asked_for_its_head_again() -> None:
    source = Source()
    source.disconnect_control()
    async with source.reader(from_head=True) as reader:
        pending = asyncio.ensure_future(anext(reader.subscription))
        await until(lambda: reader.subscription.counters.failed_requests > 0)
        assert reader.subscription.state is StreamState.STALE
        source.tell(stored(1))
        source.connect_control()
        await until(lambda: reader.subscription.state is StreamState.LIVE)

        assert reader.subscription.position == Position(EPOCH, 1)
        pending.cancel()
