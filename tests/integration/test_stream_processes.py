"""The fault table's rows that need real processes: killed, stopped, cut off.

The oracle is the publisher's own word on what is resident, given after the faults.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from fault_proxy import FaultProxy
from shepherd_events.resident_set import ResidentSet
from shepherd_events.subscriber import ResetReason, StreamState, subscribe
from stream_process import PATIENCE, PublisherPlace, StreamProcess, address_of, digest_json
from stream_readers import DEADLINE_S, Reader


@pytest.fixture
def place(tmp_path: Path) -> PublisherPlace:
    return PublisherPlace(tmp_path)


@pytest.fixture
def start(place: PublisherPlace) -> Iterator[Callable[[], StreamProcess]]:
    """Starts publishers at one place; what still runs in the end is killed."""
    processes: list[StreamProcess] = []

    def begin() -> StreamProcess:
        processes.append(place.start())
        return processes[-1]

    yield begin
    for process in processes:
        process.end()


async def converged(reader: Reader, publisher: StreamProcess) -> None:
    """The reader says LIVE and holds exactly what the publisher holds."""
    truth = await asyncio.to_thread(publisher.ask, "truth")

    def has() -> bool:
        position = reader.subscription.position
        return (
            reader.subscription.state is StreamState.LIVE
            and [position.epoch, position.seq] == truth["position"]
        )

    await reader.read_until(has)
    assert digest_json(reader.residents.digest()) == truth["digest"]


async def test_row_3_a_publisher_killed_in_the_middle_of_a_batch_and_started_again(
    place: PublisherPlace, start: Callable[[], StreamProcess]
) -> None:
    first = start()
    address = address_of(first.started["epoch"], place.live, place.control)
    async with subscribe(address, patience=PATIENCE, residents=ResidentSet()) as subscription:
        reader = Reader(subscription)
        first.ask("events 300\ntruth")
        await reader.read_up_to(2)
        first.tell("events 1000000")
        await asyncio.sleep(0.05)
        first.process.kill()
        first.process.wait()
        second = await asyncio.to_thread(start)
        second.tell("events 50")
        await converged(reader, second)

        assert second.started["epoch"] > first.started["epoch"]
        assert ResetReason.RESTARTED in {reset.reason for reset in reader.resets}


async def test_row_8_a_stopped_publisher_is_doubted_and_believed_again(
    place: PublisherPlace, start: Callable[[], StreamProcess]
) -> None:
    publisher = start()
    address = address_of(publisher.started["epoch"], place.live, place.control)
    async with subscribe(address, patience=PATIENCE, residents=ResidentSet()) as subscription:
        reader = Reader(subscription)
        publisher.tell("events 100")
        await converged(reader, publisher)
        publisher.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        await reader.read_until(lambda: subscription.state is StreamState.STALE)
        doubted_after = time.monotonic() - began
        publisher.process.send_signal(signal.SIGCONT)
        publisher.tell("events 100")
        await converged(reader, publisher)

        assert doubted_after < PATIENCE.silence_s + 2.0
        assert reader.resets == []


async def test_row_7_a_stopped_consumer_holds_nobody_up_and_catches_up(
    place: PublisherPlace, start: Callable[[], StreamProcess]
) -> None:
    publisher = start()
    address = address_of(publisher.started["epoch"], place.live, place.control)
    consumer = StreamProcess("consume", json.dumps(asdict(address)))
    try:
        publisher.ask("events 100\ntruth")
        consumer.process.send_signal(signal.SIGSTOP)
        truth = await asyncio.to_thread(publisher.ask, "events 10000\ntruth")
        consumer.process.send_signal(signal.SIGCONT)
        deadline = time.monotonic() + DEADLINE_S
        where = consumer.ask("where")
        while (where["state"], where["position"]) != ("live", truth["position"]):
            assert time.monotonic() < deadline, (where, truth)
            await asyncio.sleep(0.02)
            where = consumer.ask("where")

        assert where["digest"] == truth["digest"]
        assert truth["publish_p99_s"] < 0.05
    finally:
        consumer.end()


async def test_row_9_a_partition_of_either_port_is_told_and_heals(
    place: PublisherPlace, start: Callable[[], StreamProcess]
) -> None:
    publisher = start()
    async with FaultProxy(place.live) as live, FaultProxy(place.control) as control:
        address = address_of(publisher.started["epoch"], live.port, control.port)
        async with subscribe(address, patience=PATIENCE, residents=ResidentSet()) as subscription:
            reader = Reader(subscription)
            publisher.tell("events 50")
            await converged(reader, publisher)
            for cut_off in (
                [live.stall, control.stall],
                [live.cut, control.cut],
            ):
                for fault in cut_off:
                    fault()
                publisher.tell("events 500")
                await reader.read_until(lambda: subscription.state is StreamState.STALE)
                live.heal()
                control.heal()
                publisher.tell("events 50")
                await converged(reader, publisher)


async def test_row_9_with_the_control_port_alone_cut_off_live_frames_still_count(
    place: PublisherPlace, start: Callable[[], StreamProcess]
) -> None:
    publisher = start()
    async with FaultProxy(place.control) as control:
        address = address_of(publisher.started["epoch"], place.live, control.port)
        async with subscribe(address, patience=PATIENCE, residents=ResidentSet()) as subscription:
            reader = Reader(subscription)
            publisher.tell("events 50")
            await converged(reader, publisher)
            control.cut()
            publisher.tell("events 20")
            await converged(reader, publisher)

            assert reader.resets == []
