"""Rows 6 and 12 over NATS: a cluster that loses its leader, and logs that have no room."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from nats_broker import NatsBroker
from nats_cluster import NatsCluster
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.subscriber import subscribe
from shepherd_events.transports.nats_connection import Subjects
from shepherd_events.transports.nats_log import Retention
from shepherd_events.transports.nats_publisher import NatsPublisherTransport
from stream_readers import INFO, STREAM, Reader, stored, turn, wait_until

HEARTBEAT_S = 0.1
FRAMES = 300


def publisher_at(broker: NatsBroker, retention: Retention) -> KvEventPublisher:
    wire = NatsPublisherTransport(broker.url, STREAM, retention=retention)
    return KvEventPublisher(STREAM, INFO, wire, clock=lambda: 1000, heartbeat_s=HEARTBEAT_S)


def num_waiting(publisher: KvEventPublisher) -> int:
    transport = publisher._transport
    assert isinstance(transport, NatsPublisherTransport)
    return transport.backlog.frames


async def test_row_6_of_three_brokers_the_leader_may_die_under_load_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    cluster = NatsCluster(tmp_path)
    cluster.start()
    try:
        await cluster.is_ready(cluster.brokers[0])
        publisher = publisher_at(cluster.brokers[0], Retention(max_bytes=64 << 20, replicas=3))
        await asyncio.to_thread(publisher.start)
        async with subscribe(publisher.address) as subscription:
            reader = Reader(subscription)
            await reader.read_up_to(1)
            leader = await cluster.leader_of(cluster.brokers[0], Subjects.of(STREAM).log)
            for number in range(FRAMES):
                publisher.publish_turn(turn(number))
                if number == FRAMES // 3:
                    leader.kill()
                if number % 10 == 0:
                    await asyncio.sleep(0.005)
            await asyncio.to_thread(wait_until, lambda: num_waiting(publisher) == 0)
            await reader.read_up_to(FRAMES + 1)

            assert reader.numbers == list(range(1, FRAMES + 2))
        leader.start()
        assert publisher.counters.send_failures == 0
        await asyncio.to_thread(publisher.close, "done")
        await cluster.is_ready(leader)
        async with subscribe(publisher.address) as subscription:
            reader = Reader(subscription)
            await reader.read_until(lambda: len(reader.frames) == FRAMES + 2)
            assert reader.numbers == list(range(1, FRAMES + 3)), "the log has every frame, once"
    finally:
        cluster.kill()


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, check=False, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of twelve megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk))
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture
def broker(tmp_path: Path, small_disk: Path) -> Iterator[NatsBroker]:
    """Its store is the small disk; its log file and configuration are elsewhere."""
    place = tmp_path / "broker"
    place.mkdir()
    (place / "store").symlink_to(small_disk)
    broker = NatsBroker(place).start()
    yield broker
    broker.kill()


async def told_through_a_fault(
    publisher: KvEventPublisher, begin: Callable[[], None], end: Callable[[], None]
) -> None:
    """Publish while the log takes nothing, then let it, and read it when the publisher is gone."""
    await asyncio.to_thread(publisher.start)
    publisher.publish([stored(1, 2)])
    async with subscribe(publisher.address) as subscription:
        reader = Reader(subscription)
        await reader.read_up_to(2)
        await asyncio.to_thread(wait_until, lambda: num_waiting(publisher) == 0)
        begin()
        took = []
        for number in range(3, 200):
            began = time.perf_counter()
            publisher.publish([stored(number)])
            took.append(time.perf_counter() - began)
            publisher.publish_turn(turn(number, tail_tokens=500))
        await asyncio.to_thread(wait_until, lambda: num_waiting(publisher) > 0)
        assert sorted(took)[len(took) // 2] < 0.005, "nobody waits for a disk"
        assert publisher.counters.dropped_events == 0
        end()
        await reader.read_up_to(publisher.head_seq)
        await asyncio.to_thread(wait_until, lambda: num_waiting(publisher) == 0)

        assert reader.residents.hashes() == set(range(1, 200))
        assert reader.numbers == list(range(1, publisher.head_seq + 1))
    await asyncio.to_thread(publisher.close, "done")
    async with subscribe(publisher.address) as subscription:
        reader = Reader(subscription)
        await reader.read_until(lambda: len(reader.frames) == publisher.head_seq)
        assert reader.numbers == list(range(1, publisher.head_seq + 1)), "the log has them all"


async def test_row_12_a_full_disk_holds_up_the_log_and_nobody_else(
    broker: NatsBroker, small_disk: Path
) -> None:
    ballast = small_disk / "ballast"

    def make_room() -> None:
        ballast.unlink()
        broker.kill()
        broker.start()

    publisher = publisher_at(broker, Retention(max_bytes=8 << 20))
    await told_through_a_fault(publisher, lambda: fill(ballast), make_room)


async def test_row_12_a_store_that_has_become_read_only_holds_up_the_log_and_nobody_else(
    broker: NatsBroker, small_disk: Path
) -> None:
    def lock() -> None:
        broker.kill()
        mount("-o", "remount,ro", str(small_disk))
        with suppress(AssertionError):
            broker.start()

    def unlock() -> None:
        broker.kill()
        mount("-o", "remount,rw", str(small_disk))
        broker.start()

    publisher = publisher_at(broker, Retention(max_bytes=8 << 20))
    await told_through_a_fault(publisher, lock, unlock)


def fill(file: Path) -> None:
    """Take all the room that there is."""
    with file.open("wb", buffering=0) as ballast:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    ballast.write(b"x" * size)
