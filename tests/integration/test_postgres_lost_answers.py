"""A commit whose answer never comes: it has happened, and nobody knows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from psycopg import sql

from fault_proxy import FaultProxy
from memory_oracle import kept, talk, truth
from postgres_server import SERVICE, PostgresServer
from shepherd_memory.applier import Applier
from shepherd_memory.archive.postgres import PostgresArchives
from shepherd_memory.archive.postgres_index import PostgresIndex
from shepherd_memory.archive.postgres_pool import PostgresOptions, PostgresPool
from shepherd_memory.clocks import Clocks
from shepherd_memory.consumer import Consumer
from shepherd_memory.fake import FakeWorker, SpelledTranscript
from shepherd_memory.metrics import Metrics
from shepherd_memory.notifier import Bell
from shepherd_memory.writer import WriterThread

_GATE = 7
"""The advisory lock that commits wait for."""


@pytest.fixture
def options(postgres: PostgresServer) -> PostgresOptions:
    return postgres.fresh()


@pytest.fixture
def gate(postgres: PostgresServer) -> Iterator[Callable[[PostgresOptions, str], None]]:
    """Makes whoever writes to a table wait at the end of its transaction, see `_GATE`."""
    postgres.execute(
        f"""CREATE OR REPLACE FUNCTION public.gate() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_advisory_xact_lock_shared({_GATE}); RETURN NULL; END $$"""
    )

    def put(options: PostgresOptions, table: str) -> None:
        place = sql.Identifier(options.schema, table).as_string(None)
        postgres.execute(
            f"""CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON {place}
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.gate()"""
        )

    yield put
    postgres.execute("DROP FUNCTION public.gate() CASCADE")


async def until(is_so: Callable[[], bool]) -> None:
    """Asks in a thread: the proxy runs in this loop."""
    async with asyncio.timeout(20):
        while not await asyncio.to_thread(is_so):  # noqa: ASYNC110  a table rings no bell; the deadline is above
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("table", ["turns", "streams"])
async def test_a_commit_whose_answer_is_lost_is_recognised_and_nothing_is_twice(
    postgres: PostgresServer,
    options: PostgresOptions,
    gate: Callable[[PostgresOptions, str], None],
    table: str,
) -> None:
    """`turns`: of the archive's transaction; `streams`: of the index's behind it."""
    gate(options, table)
    rows = sql.Identifier(options.schema, table).as_string(None)
    worker, metrics = FakeWorker(), Metrics()
    talk(worker, "whales")

    def commits_waiting() -> int:
        return len(
            postgres.execute(
                f"""SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = {_GATE}
                AND NOT granted"""
            )
        )

    async with FaultProxy(postgres.port) as proxy, WriterThread() as writer:
        through = postgres.url(SERVICE).replace(str(postgres.port), str(proxy.port))
        pool = PostgresPool(replace(options, url=through))
        archives = await asyncio.to_thread(PostgresArchives, pool)
        consumer = await writer.run(
            lambda: Consumer(
                archives=archives,
                store=PostgresIndex(pool, lambda _: None),
                transcripts={worker.stream: SpelledTranscript()},
                metrics=metrics,
                grace_ns=0,
                clocks=Clocks(),
            )
        )
        applier = Applier(
            consumer=consumer, writer=writer, bell=Bell(), metrics=metrics, clocks=Clocks()
        )
        async with asyncio.TaskGroup() as tasks:
            with postgres.session() as holder:
                holder.execute(f"SELECT pg_advisory_lock({_GATE})")
                running = tasks.create_task(applier.run())
                for frame in worker.frames:
                    await applier.put(frame)
                await until(lambda: commits_waiting() == 1)
                assert postgres.execute(f"SELECT count(*) FROM {rows}") == [(0,)]
                proxy.stall_answers()
            await until(lambda: postgres.execute(f"SELECT count(*) > 0 FROM {rows}") == [(True,)])
            proxy.cut()
            await until(lambda: bool(applier.store_failure))
            proxy.heal()
            await until(lambda: not applier.store_failure)
            running.cancel()
        held = await asyncio.to_thread(kept, archives)
        await asyncio.to_thread(pool.close)

    assert held == truth(worker)
    assert len(held["told"]) == 1
    assert metrics.registry.get_sample_value("shepherd_memory_store_failures_total") == 1
