"""Rows 7-10 with real processes: readers that are slow, stopped, cut off, or many at once."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from pathlib import Path
from random import Random

import pytest

from fault_proxy import FaultProxy
from line_process import LineProcess
from shepherd_events.errors import KvEventsError
from shepherd_events.events import Frame, StreamAddress
from shepherd_events.resident_set import ResidentSet
from shepherd_events.retry_schedule import RetrySchedule
from shepherd_events.subscriber import Patience, ResetReason, StreamState, subscribe
from shepherd_events.transports.zmq import ZmqSubscriberTransport
from soak.oracle import has_converged
from soak.reader import SILENCE_S
from soak.scene import PYTHON_PATH
from soak_worker import SoakWorker, has_all, holds_all
from stream_process import PATIENCE
from stream_readers import DEADLINE_S, Reader

READER = str(Path(__file__).parents[1] / "soak" / "reader.py")
SMALL_RING = 40_000


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[SoakWorker]:
    worker = SoakWorker(tmp_path)
    yield worker
    worker.end()


@pytest.fixture
def forgetful(tmp_path: Path) -> Iterator[SoakWorker]:
    """Its ring is over after a few hundred frames."""
    worker = SoakWorker(tmp_path, ring_bytes=SMALL_RING)
    yield worker
    worker.end()


async def test_row_10_a_ring_that_wraps_under_a_slow_replay_ends_in_a_snapshot_and_harms_nobody(
    forgetful: SoakWorker,
) -> None:
    worker = forgetful
    await asyncio.to_thread(worker.flood, 200)
    lags: list[float] = []
    slow_patience = replace(PATIENCE, page_bytes=4_000)
    async with (
        subscribe(worker.address, patience=PATIENCE, from_head=True) as live,
        subscribe(worker.address, patience=slow_patience) as slow,
    ):

        async def measure() -> None:
            async for item in live:
                published_ns = item.ts_unix_ns if isinstance(item, Frame) else time.time_ns()
                lags.append((time.time_ns() - published_ns) / 1e9)

        measuring = asyncio.create_task(measure())
        reader = Reader(slow)
        await asyncio.to_thread(worker.ask, {"do": "run", "run": True})
        for _ in range(4):  # a page, then nothing for longer than the ring is kept
            await reader.read()
            while slow.num_ready:
                await reader.read()
            await asyncio.to_thread(worker.flood, 400)
            await asyncio.sleep(0.2)
        await asyncio.to_thread(worker.ask, {"do": "run", "run": False})
        truth = await asyncio.to_thread(worker.truth)
        await reader.read_until(lambda: has_all(reader, truth))
        measuring.cancel()

        assert ResetReason.COMPACTED in {reset.reason for reset in reader.resets}
        assert holds_all(reader.residents, truth)
        assert live.counters.gaps == 0 or live.counters.replays > 0
        assert statistics.median(lags) < 0.25, "who listens does not wait for who replays"


async def test_row_11_a_snapshot_that_is_cut_off_again_and_again_while_events_go_on(
    forgetful: SoakWorker,
) -> None:
    worker = forgetful
    worker.flood(2_000)
    small_pages = replace(PATIENCE, page_bytes=1_000)
    async with FaultProxy(worker.control_port) as control:
        address = worker.address_through(worker.live_port, control.port)
        async with subscribe(address, patience=small_pages) as subscription:
            reader = Reader(subscription)
            await asyncio.to_thread(worker.ask, {"do": "run", "run": True})
            reading = asyncio.create_task(reader.read_until(lambda: len(reader.frames) > 50))
            for _ in range(4):
                await asyncio.sleep(0.03)
                control.cut()
                await asyncio.sleep(0.03)
                control.heal()
            await reading
            await asyncio.to_thread(worker.ask, {"do": "run", "run": False})
            truth = await asyncio.to_thread(worker.truth)
            await reader.read_until(lambda: has_all(reader, truth))

            assert reader.resets, "the first frames were gone"
            assert holds_all(reader.residents, truth)


@pytest.mark.parametrize("way", ["stall_answers", "stall_questions"])
@pytest.mark.parametrize("port", ["live", "control"])
async def test_row_9_a_partition_of_one_way_is_told_and_heals(
    worker: SoakWorker, way: str, port: str
) -> None:
    async with FaultProxy(worker.live_port) as live, FaultProxy(worker.control_port) as control:
        cut_off = live if port == "live" else control
        address = worker.address_through(live.port, control.port)
        async with subscribe(address, patience=PATIENCE) as subscription:
            reader = Reader(subscription)
            worker.flood(20)
            first = worker.truth()
            await reader.read_until(lambda: has_all(reader, first))
            getattr(cut_off, way)()
            if port == "live" and way == "stall_answers":
                worker.flood(20)
                truth = worker.truth()
                await reader.read_until(lambda: reader.position.seq == truth["position"][1])
                assert subscription.counters.replays > 0, "the control port brought it"
            cut_off.heal()
            worker.flood(20)
            truth = await asyncio.to_thread(worker.truth)
            await reader.read_until(lambda: has_all(reader, truth))

            assert holds_all(reader.residents, truth)
            assert reader.resets == []


async def test_row_9_a_connection_that_died_without_a_word_is_replaced(
    worker: SoakWorker,
) -> None:
    def pinging(address: StreamAddress) -> ZmqSubscriberTransport:
        return ZmqSubscriberTransport(address, ping_s=0.1)

    async with FaultProxy(worker.live_port) as live:
        address = worker.address_through(live.port, worker.control_port)
        residents = ResidentSet()
        async with subscribe(
            address, patience=PATIENCE, residents=residents, connect=pinging
        ) as subscription:
            reader = Reader(subscription)
            await reader.read_until(lambda: subscription.counters.digest_checks > 0)
            before = live.num_connections
            live.abandon()
            await reader.read_until(lambda: live.num_connections > before)
            worker.flood(20)
            truth = await asyncio.to_thread(worker.truth)
            await reader.read_until(lambda: has_all(reader, truth))

            assert holds_all(reader.residents, truth)


async def test_row_9_with_nothing_but_silence_from_both_ports_a_reader_says_so(
    worker: SoakWorker,
) -> None:
    async with FaultProxy(worker.live_port) as live, FaultProxy(worker.control_port) as control:
        address = worker.address_through(live.port, control.port)
        async with subscribe(address, patience=PATIENCE) as subscription:
            reader = Reader(subscription)
            truth = worker.truth()
            await reader.read_until(lambda: has_all(reader, truth))
            live.stall_answers()
            control.stall_answers()
            began = time.monotonic()
            await reader.read_until(lambda: subscription.state is StreamState.STALE)

            assert time.monotonic() - began < PATIENCE.silence_s + 5.0
            live.heal()
            control.heal()
            await reader.read_until(lambda: has_all(reader, truth))


async def test_row_9_many_readers_that_come_back_at_once_are_no_storm(
    forgetful: SoakWorker,
) -> None:
    worker, num_readers, outage_s = forgetful, 64, 1.0
    patience = Patience(
        silence_s=0.4, request_s=0.4, first_retry_s=0.1, last_retry_s=1.0, between_snapshots_s=0.1
    )
    async with AsyncExitStack() as stack:
        live = await stack.enter_async_context(FaultProxy(worker.live_port))
        control = await stack.enter_async_context(FaultProxy(worker.control_port))
        address = worker.address_through(live.port, control.port)
        readers = []
        for number in range(num_readers):
            opening = subscribe(address, patience=patience, random=Random(number))
            readers.append(Reader(await stack.enter_async_context(opening)))

        async def all_read_up_to(truth: dict[str, object]) -> None:
            await asyncio.gather(
                *(reader.read_until(lambda r=reader: has_all(r, truth)) for reader in readers)
            )

        worker.flood(20)
        await all_read_up_to(await asyncio.to_thread(worker.truth))
        before = (await asyncio.to_thread(worker.truth))["counters"]
        connections = control.num_connections
        live.cut()
        control.cut()
        await asyncio.to_thread(worker.flood, 1_000)
        waiting = [asyncio.ensure_future(reader.read()) for reader in readers]
        await asyncio.sleep(outage_s)
        attempts = control.num_connections - connections
        live.heal()
        control.heal()
        await asyncio.gather(*waiting)
        truth = await asyncio.to_thread(worker.truth)
        await all_read_up_to(truth)

        assert all(holds_all(reader.residents, truth) for reader in readers)
        counters = truth["counters"]
        requests = sum(counters[name] - before[name] for name in ("replays", "snapshots"))
        assert counters["snapshots"] > before["snapshots"], "the ring had moved on"
        assert requests < 20 * num_readers, "a few pages each"
        assert attempts < 30 * num_readers * outage_s, "connections are not hammered at"


def test_row_9_chance_spreads_the_retries_of_readers_that_failed_together() -> None:
    patience = Patience(first_retry_s=0.1, last_retry_s=5.0)
    schedules = [RetrySchedule(patience, lambda: 0.0, Random(number)) for number in range(64)]
    for failures in range(1, 9):
        for schedule in schedules:
            schedule.failed(KvEventsError("nobody answers"))
        due = sorted(schedule.due_at(for_snapshot=False) for schedule in schedules)
        longest = min(0.1 * 2 ** (failures - 1), 5.0)

        assert longest / 2 <= due[0] <= due[-1] <= longest
        crowd = max(sum(at <= other < at + longest / 20 for other in due) for at in due)
        assert crowd <= 20, "no twentieth of the wait sees a third of them"


async def test_rows_7_and_8_a_follower_is_stopped_and_then_its_worker(tmp_path: Path) -> None:
    worker = SoakWorker(tmp_path, ranks=1, ring_bytes=SMALL_RING)
    reader = LineProcess(READER, json.dumps([asdict(worker.address)]), env=PYTHON_PATH)

    def sample() -> dict[str, object]:
        (one,) = reader.ask({"do": "sample", "whole": True})
        return dict(one)

    def wait(wanted: object) -> dict[str, object]:
        deadline = time.monotonic() + DEADLINE_S
        while not wanted(one := sample()):  # type: ignore[operator]
            assert time.monotonic() < deadline, one
            time.sleep(0.02)
        return one

    try:
        worker.flood(50)
        first = worker.truth()
        wait(lambda one: has_converged(one, first))
        reader.stop()
        worker.flood(5_000)
        truth = worker.truth()
        assert truth["counters"]["dropped_events"] == 0, "nobody waited for the reader"
        reader.go_on()
        caught_up = wait(lambda one: has_converged(one, truth))
        assert caught_up["counters"]["digest_mismatches"] == 0  # type: ignore[index]

        worker.stop()
        began = time.monotonic()
        wait(lambda one: one["state"] == "stale")
        assert time.monotonic() - began < SILENCE_S + 5.0
        worker.go_on()
        worker.flood(50)
        last = worker.truth()
        wait(lambda one: has_converged(one, last))
    finally:
        reader.end()
        worker.end()
