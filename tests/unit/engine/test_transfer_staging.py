"""Buffers that come back when nobody sees them any more."""

from __future__ import annotations

import asyncio
import threading

from engine_calls import until
from shepherd_worker.engine.embedded.transfer.staging import Staging

KIB = 1 << 10


async def test_a_buffer_is_used_again_once_its_last_view_is_gone() -> None:
    staging = Staging()
    first = await staging.take(100 * KIB)
    first[:4] = b"mark"
    part = first[:4]
    assert len(first) == 100 * KIB
    del first
    other = await staging.take(100 * KIB)

    assert bytes(other[:4]) == bytes(4)
    assert staging.bytes_lent == 256 * KIB
    del part
    again = await staging.take(120 * KIB)
    assert bytes(again[:4]) == b"mark"


async def test_a_view_keeps_what_it_sees_whatever_is_taken_meanwhile() -> None:
    staging = Staging()
    kept = []
    for number in range(20):
        view = await staging.take(64 * KIB)
        view[:] = bytes([number]) * len(view)
        kept.append(view[1000:1001])
        del view

    assert [bytes(view) for view in kept] == [bytes([number]) for number in range(20)]


async def test_who_finds_no_room_waits_first_come_first_served() -> None:
    staging = Staging(limit_bytes=256 * KIB)
    held = [await staging.take(128 * KIB), await staging.take(128 * KIB)]
    order: list[int] = []

    async def take(number: int, size: int) -> None:
        view = await staging.take(size)
        order.append(number)
        del view

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(take(1, 256 * KIB))
        await asyncio.sleep(0)
        tasks.create_task(take(2, 64 * KIB))
        for _ in range(5):
            await asyncio.sleep(0)
        assert order == []
        thread = threading.Thread(target=held.clear)  # the engine lets go of them in its thread
        thread.start()
        thread.join()

    assert order == [1, 2]
    await until(lambda: staging.bytes_lent == 0)


async def test_one_buffer_may_be_larger_than_the_limit() -> None:
    staging = Staging(limit_bytes=64 * KIB)

    assert len(await staging.take(1 << 20)) == 1 << 20
    assert len(await staging.take(0)) == 0


async def test_a_waiter_that_gives_up_lets_the_next_one_in() -> None:
    staging = Staging(limit_bytes=64 * KIB)
    held = [await staging.take(64 * KIB)]
    impatient = asyncio.create_task(staging.take(64 * KIB))
    patient = asyncio.create_task(staging.take(64 * KIB))
    await asyncio.sleep(0)
    impatient.cancel()
    held.clear()

    assert len(await asyncio.wait_for(patient, 5)) == 64 * KIB
