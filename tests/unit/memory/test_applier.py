"""Batches form by themselves, and a cancelled caller leaves nothing half done."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from shepherd_memory.applier import Applier
from shepherd_memory.arrivals import StreamEnded
from shepherd_memory.fake import FakeWorker
from shepherd_memory.notifier import Bell
from shepherd_memory.writer import WriterThread

if TYPE_CHECKING:
    from conftest import World


async def until_empty(applier: Applier, world: World, num_batches: int) -> None:
    async with asyncio.timeout(10):
        while world.count("shepherd_memory_commit_duration_seconds_count") < num_batches:  # noqa: ASYNC110  a counter rings no bell; the deadline is above
            await asyncio.sleep(0.005)
    assert applier.backlog == 0


async def test_what_is_ready_together_is_committed_together(world: World) -> None:
    worker, bell = FakeWorker(), Bell()
    said = [("user", "one?"), ("assistant", "yes"), ("user", "two?"), ("assistant", "no")]
    worker.complete(said)
    worker.evict(worker.blocks_of(said)[:1])
    ticket = bell.ticket()
    async with WriterThread() as writer, asyncio.TaskGroup() as tasks:
        applier = Applier(
            consumer=world.consumer,
            writer=writer,
            bell=bell,
            metrics=world.metrics,
            now_unix_ns=lambda: 5_000_000_000,
        )
        for frame in worker.frames:
            await applier.put(frame)
        running = tasks.create_task(applier.run())
        await until_empty(applier, world, 1)
        await asyncio.wait_for(ticket.wait(), 5)

        assert world.archived() == [(1, "one? yes")]
        assert applier.lag_s == {worker.stream: pytest.approx(5, abs=1e-6)}

        await applier.put(StreamEnded(worker.stream))
        await until_empty(applier, world, 2)
        assert applier.lag_s == {}
        running.cancel()


async def test_a_cancelled_call_is_finished_before_the_next_one() -> None:
    entered, leave, order = threading.Event(), threading.Event(), []

    def slow() -> None:
        entered.set()
        leave.wait(10)
        order.append("slow")

    async with WriterThread() as writer:
        call = asyncio.create_task(writer.run(slow))
        await asyncio.to_thread(entered.wait, 10)
        call.cancel()
        following = asyncio.create_task(writer.run(lambda: order.append("next")))
        await asyncio.wait([call])
        assert call.cancelled()
        assert order == []
        leave.set()
        await following

    assert order == ["slow", "next"]


async def test_what_a_call_raises_reaches_its_caller() -> None:
    async with WriterThread() as writer:
        with pytest.raises(ZeroDivisionError):
            await writer.run(lambda: 1 // 0)
