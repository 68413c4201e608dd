"""Batches form by themselves, and a cancelled caller leaves nothing half done."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shepherd_memory.applier import MAX_BATCH, Applier
from shepherd_memory.archive.files import SqliteArchives
from shepherd_memory.archive.sqlite import SqliteArchive
from shepherd_memory.arrivals import StreamEnded
from shepherd_memory.clocks import Clocks
from shepherd_memory.consumer import Consumer
from shepherd_memory.errors import LeaseLostError, StoreUnavailableError
from shepherd_memory.fake import FakeWorker, SpelledTranscript
from shepherd_memory.index_store import IndexStore
from shepherd_memory.metrics import Metrics
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
            clocks=Clocks(unix_ns=lambda: 5_000_000_000),
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


class FlakyArchives(SqliteArchives):
    """Out of reach while told so."""

    is_down = False

    def of(self, tenant: str) -> SqliteArchive:
        if self.is_down:
            raise StoreUnavailableError("the tenant's file", "database or disk is full")
        return super().of(tenant)


class LeasedArchives(SqliteArchives):
    """Whose lease somebody else has."""

    def of(self, tenant: str) -> SqliteArchive:
        raise LeaseLostError("the tenant's file", "told so")


async def test_who_lost_the_lease_ends_at_once_instead_of_trying_again(world: World) -> None:
    worker = FakeWorker()
    worker.complete([("user", "question?"), ("assistant", "answer")])
    world.stop()
    world.start(LeasedArchives)
    async with WriterThread() as writer:
        applier = Applier(
            consumer=world.consumer,
            writer=writer,
            bell=Bell(),
            metrics=world.metrics,
            clocks=Clocks(),
        )
        for frame in worker.frames:
            await applier.put(frame)
        with pytest.raises(LeaseLostError, match="told so"):
            await asyncio.wait_for(applier.run(), 10)

    assert world.consumer.positions == {}


async def test_while_a_store_is_down_streams_wait_and_nothing_is_lost(world: World) -> None:
    worker = FakeWorker()
    said: list[tuple[str, str]] = []
    for turn in range(4):
        said += [("user", f"question {turn}?"), ("assistant", f"answer {turn}")]
        worker.complete(said)
    world.stop()
    world.start(FlakyArchives)
    flaky = world.archives
    assert isinstance(flaky, FlakyArchives)
    flaky.is_down = True
    async with WriterThread() as writer, asyncio.TaskGroup() as tasks:
        bell = Bell()
        applier = Applier(
            consumer=world.consumer,
            writer=writer,
            bell=bell,
            metrics=world.metrics,
            clocks=Clocks(),
        )
        running = tasks.create_task(applier.run())
        for frame in worker.frames:
            await applier.put(frame)
        async with asyncio.timeout(10):
            while world.count("shepherd_memory_store_failures_total") < 2:  # noqa: ASYNC110  a counter rings no bell; the deadline is above
                await asyncio.sleep(0.005)

        assert applier.store_failure == "database or disk is full"
        assert world.count("shepherd_memory_store_up") == 0
        assert world.consumer.positions == {}

        ticket = bell.ticket()
        flaky.is_down = False
        await until_empty(applier, world, 1)
        assert applier.store_failure == ""
        assert world.count("shepherd_memory_store_up") == 1
        await asyncio.wait_for(ticket.wait(), 5)
        running.cancel()

    assert [ordinal for ordinal, _ in world.live()] == [1, 2, 3, 4]


async def test_a_queue_that_is_full_holds_the_reader_of_a_stream(world: World) -> None:
    async with WriterThread() as writer:
        applier = Applier(
            consumer=world.consumer,
            writer=writer,
            bell=Bell(),
            metrics=world.metrics,
            clocks=Clocks(),
        )
        ended = StreamEnded(FakeWorker().stream)
        for _ in range(2 * MAX_BATCH):
            await applier.put(ended)
        waiting = asyncio.create_task(applier.put(ended))
        await asyncio.sleep(0)

        assert not waiting.done()
        assert applier.backlog == 2 * MAX_BATCH
        waiting.cancel()


async def test_what_is_due_is_archived_though_nothing_arrives(tmp_path: Path) -> None:
    archives, store = SqliteArchives(tmp_path / "tenants"), IndexStore(tmp_path / "index.db")
    worker, bell, metrics = FakeWorker(), Bell(), Metrics()
    said = [("user", "one?"), ("assistant", "yes"), ("user", "two?"), ("assistant", "no")]
    worker.complete(said)
    worker.evict(worker.blocks_of(said)[:1])
    consumer = Consumer(
        archives=archives,
        store=store,
        transcripts={worker.stream: SpelledTranscript()},
        metrics=metrics,
        grace_ns=50_000_000,
        clocks=Clocks(),
    )
    ticket = bell.ticket()
    async with WriterThread() as writer, asyncio.TaskGroup() as tasks:
        applier = Applier(
            consumer=consumer, writer=writer, bell=bell, metrics=metrics, clocks=Clocks()
        )
        running = tasks.create_task(applier.run())
        for frame in worker.frames:
            await applier.put(frame)
        await asyncio.wait_for(ticket.wait(), 10)
        running.cancel()

    (notice,) = archives.of("local").notices(session="s", state=None, after=0, limit=9)
    assert notice.notice.turns == (1,)
    store.close()
    archives.close()


async def test_a_directory_that_is_away_for_a_while_costs_nothing(
    world: World, tmp_path: Path
) -> None:
    worker = FakeWorker()
    said = [("user", "one?"), ("assistant", "yes"), ("user", "two?"), ("assistant", "no")]
    worker.complete(said, session="s", tenant="acme")
    worker.evict(worker.blocks_of(said, salt="acme")[:1])
    (tmp_path / "tenants").rename(tmp_path / "away")
    async with WriterThread() as writer, asyncio.TaskGroup() as tasks:
        applier = Applier(
            consumer=world.consumer,
            writer=writer,
            bell=Bell(),
            metrics=world.metrics,
            clocks=Clocks(),
        )
        running = tasks.create_task(applier.run())
        for frame in worker.frames:
            await applier.put(frame)
        async with asyncio.timeout(10):
            while not applier.store_failure:  # noqa: ASYNC110  a state rings no bell; the deadline is above
                await asyncio.sleep(0.005)
        assert applier.store_failure == "unable to open database file"

        (tmp_path / "away").rename(tmp_path / "tenants")
        await until_empty(applier, world, 1)
        running.cancel()

    assert world.archived(tenant="acme") == [(1, "one? yes")]
    assert len(world.outbox("acme")) == 1
