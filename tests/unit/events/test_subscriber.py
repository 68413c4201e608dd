"""Where a reader begins, what it is handed and when it is live."""

from __future__ import annotations

import asyncio

import pytest

from shepherd_events.events import BlockBatch, Frame, Goodbye, Heartbeat
from shepherd_events.subscriber import Position, Reset, ResetReason, StreamState, subscribe
from stream_readers import DEADLINE_S, INFO, STREAM, Reader, removed, stored, turn
from stream_source import EPOCH, PATIENCE, Source, started


async def test_a_reader_that_comes_late_gets_everything_from_the_first_frame_on() -> None:
    source = started()
    async with source.reader() as reader:
        assert reader.subscription.state is StreamState.CATCHING_UP
        assert reader.subscription.position == Position(EPOCH, 0)
        await reader.read_up_to(3)

        assert reader.numbers == [1, 2, 3]
        assert reader.frames[0].body == INFO
        assert reader.resets == []
        assert reader.subscription.position == Position(EPOCH, 3)
        assert reader.residents.hashes() == {1, 2, 3}


async def test_live_frames_are_handed_out_as_they_come() -> None:
    source = started()
    async with source.reader() as reader:
        await reader.read_up_to(3)
        source.send(turn(1))
        source.tell(removed(3))
        await reader.read_up_to(5)

        assert [frame.body for frame in reader.frames[3:]] == [turn(1), BlockBatch((removed(3),))]
        assert reader.subscription.counters.gaps == 0


async def test_heartbeats_are_not_handed_out_and_keep_the_stream_live() -> None:
    source = started()
    async with source.reader() as reader:
        await reader.read_up_to(3)
        pending = asyncio.ensure_future(reader.read())
        for _ in range(50):
            source.heartbeat()
            await asyncio.sleep(0.01)
            assert reader.subscription.state is StreamState.LIVE
        source.send(turn(1))

        assert await pending == Frame(STREAM, EPOCH, 4, 1, turn(1))
        assert reader.subscription.counters.replays == 1


async def test_a_position_is_followed_by_what_comes_after_it() -> None:
    source = started()
    async with source.reader(after=Position(EPOCH, 2)) as reader:
        await reader.read_up_to(3)

        assert reader.numbers == [3]
        assert reader.resets == []


async def test_a_position_at_the_head_is_live_without_any_item() -> None:
    source = started()
    async with source.reader(after=Position(EPOCH, 3)) as reader:
        await reader.read_until(lambda: reader.subscription.state is StreamState.LIVE)

        assert reader.frames == []


async def test_frames_that_are_not_kept_any_more_are_replaced_by_a_snapshot() -> None:
    source = started(ring_bytes=150)
    async with source.reader() as reader:
        reset = await reader.read()

        assert reset == Reset(EPOCH, 3, (stored(1, 2, 3),), ResetReason.COMPACTED)
        assert reader.subscription.position == Position(EPOCH, 3)
        source.send(turn(1))
        await reader.read_up_to(4)
        assert reader.numbers == [4]


async def test_a_position_of_a_lower_epoch_is_reset_to_nothing_and_replayed() -> None:
    source = started()
    async with source.reader(after=Position(EPOCH - 1, 70)) as reader:
        assert await reader.read() == Reset(EPOCH, 0, (), ResetReason.RESTARTED)
        assert reader.subscription.position == Position(EPOCH, 0)
        await reader.read_up_to(3)

        assert reader.numbers == [1, 2, 3]


async def test_a_position_that_the_publisher_never_reached_is_reset_by_a_snapshot() -> None:
    source = started()
    async with source.reader(after=Position(EPOCH, 70)) as reader:
        assert await reader.read() == Reset(EPOCH, 3, (stored(1, 2, 3),), ResetReason.RESTARTED)


async def test_a_position_of_a_higher_epoch_waits_and_takes_nothing_from_a_lower_one() -> None:
    source = started()
    async with source.reader(after=Position(EPOCH + 1, 1)) as reader:
        await reader.read_until(lambda: reader.subscription.counters.failed_requests >= 2)
        assert reader.subscription.state is StreamState.STALE
        source.begin(EPOCH + 1)
        source.send(INFO)
        source.send(turn(1))
        await reader.read_up_to(2)

        assert reader.numbers == [2]
        assert reader.resets == []


async def test_a_publisher_that_restarts_resets_its_readers() -> None:
    source = started()
    async with source.reader() as reader:
        await reader.read_up_to(3)
        source.begin(EPOCH + 1)
        source.send(INFO)
        source.tell(stored(9))
        await reader.read_until(lambda: reader.subscription.position == Position(EPOCH + 1, 2))

        assert reader.resets == [Reset(EPOCH + 1, 0, (), ResetReason.RESTARTED)]
        assert reader.numbers == [1, 2, 3, 1, 2]
        assert reader.residents.hashes() == {9}


async def test_a_restart_is_found_by_a_heartbeat_alone() -> None:
    source = started()
    async with source.reader() as reader:
        await reader.read_up_to(3)
        source.begin(EPOCH + 1)
        source.send(INFO, live=False)
        source.heartbeat()
        await reader.read_until(lambda: reader.subscription.position == Position(EPOCH + 1, 1))

        assert len(reader.resets) == 1


async def test_frames_of_a_lower_epoch_are_never_handed_out() -> None:
    source = started()
    zombie = [source.payload(turn(number), number) for number in (4, 5)]
    async with source.reader() as reader:
        await reader.read_up_to(3)
        source.begin(EPOCH + 1)
        source.send(INFO)
        for payload in zombie:
            source.send_live(payload)
        source.send(turn(9))
        await reader.read_until(lambda: reader.subscription.position == Position(EPOCH + 1, 2))

        assert [frame.epoch for frame in reader.frames] == [EPOCH] * 3 + [EPOCH + 1] * 2
        assert reader.subscription.counters.duplicates == 2


async def test_a_zombie_does_not_keep_the_stream_live() -> None:
    source = started()
    payload = source.payload(Heartbeat(3, 1), 3)
    source.begin(EPOCH + 1)
    source.send(INFO)
    async with source.reader() as reader:
        await reader.read_up_to(1)
        source.disconnect_control()
        pending = asyncio.ensure_future(reader.read())
        async with asyncio.timeout(DEADLINE_S):
            while reader.subscription.state is not StreamState.STALE:
                source.send_live(payload)
                await asyncio.sleep(0.005)
        pending.cancel()


async def test_a_goodbye_is_handed_out_and_makes_stale() -> None:
    source = started()
    async with source.reader() as reader:
        await reader.read_up_to(3)
        source.send(Goodbye("drained"))
        source.disconnect_control()

        frame = await reader.read()
        assert isinstance(frame, Frame)
        assert frame.body == Goodbye("drained")
        assert reader.subscription.state is StreamState.STALE

        source.begin(EPOCH + 1)
        source.send(INFO)
        await reader.read_until(lambda: reader.subscription.position == Position(EPOCH + 1, 1))
        assert reader.subscription.state is StreamState.LIVE


async def test_state_is_stale_after_silence_even_if_nobody_asks_for_items() -> None:
    now = 0.0
    source = started()
    async with subscribe(
        source.address, patience=PATIENCE, connect=source.broker.connect, clock=lambda: now
    ) as subscription:
        await Reader(subscription).read_up_to(3)

        now = PATIENCE.silence_s
        assert subscription.state is StreamState.LIVE
        now += 0.001
        assert subscription.state is StreamState.STALE


async def test_a_cancelled_read_loses_and_repeats_nothing() -> None:
    source = started()
    async with source.reader() as reader:
        for number in range(200):
            source.send(turn(number), live=number % 3 > 0)
            pending = asyncio.ensure_future(reader.read())
            for _ in range(number % 5):
                await asyncio.sleep(0)
            pending.cancel()
            await asyncio.wait([pending])
        source.heartbeat()
        await reader.read_up_to(203)

        assert reader.numbers == list(range(1, 204))


async def test_a_reader_with_much_to_read_lets_others_run() -> None:
    source = started()
    turns = 0
    async with source.reader() as reader:
        await reader.read_up_to(3)
        for number in range(640):
            source.send(turn(number))
        done = False

        async def other() -> None:
            nonlocal turns
            while not done:
                turns += 1
                await asyncio.sleep(0)

        beside = asyncio.ensure_future(other())
        async for _ in reader.subscription:
            if reader.subscription.position.seq == 643:
                break
        done = True
        await beside

    assert turns >= 10


async def test_a_page_is_handed_out_item_by_item_with_its_positions() -> None:
    source = started()
    async with source.reader() as reader:
        positions = []
        for _ in range(3):
            await reader.read()
            positions.append(reader.subscription.position)

        assert positions == [Position(EPOCH, seq) for seq in (1, 2, 3)]


async def test_an_unreachable_subscription_can_be_left_at_once() -> None:
    source = Source()
    source.disconnect_control()
    async with source.reader() as reader:
        pending = asyncio.ensure_future(reader.read())
        await asyncio.sleep(0)
        pending.cancel()
        await asyncio.wait([pending])


async def test_what_the_caller_raises_comes_out_as_it_is() -> None:
    source = started()
    with pytest.raises(KeyError, match="mine"):
        async with source.reader():
            raise KeyError("mine")
