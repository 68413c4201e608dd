"""Records move between two services, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from engine_calls import until
from shepherd_worker.engine.embedded.transfer import shm
from shepherd_worker.engine.embedded.transfer.service import (
    TransferMode,
)
from transfer_calls import (
    BLOCK_BYTES,
    FINGERPRINT,
    Blocks,
    exists,
    fetch,
    only,
    record,
    service,
    socket_of,
)

SECRET = b"a secret of both sides"
WAYS = ("shm", "shm copy", "tcp")


@pytest.fixture
def blocks() -> Blocks:
    return Blocks()


@pytest.mark.parametrize("way", WAYS)
async def test_records_arrive_as_they_were_and_the_lease_ends(way: str, blocks: Blocks) -> None:
    async with service(blocks.storage) as server, service() as client:
        source = blocks.source(7, 3, 5, 30, shared=way != "shm copy")
        ticket = server.lease(source, blocks.release)
        assert server.stats().leases == 1
        records = await fetch(client, only(ticket, way[:3]), 1, 3)
        await until(lambda: server.stats().leases == 0)

        assert [bytes(r) for r in records] == [record(3), record(5), record(30)]
        await until(lambda: blocks.num_released == 1)
        stats = client.stats()
        assert stats.fetched_total == {"shm": int(way != "tcp"), "tcp": int(way == "tcp")}
        assert stats.bytes_received_total == server.stats().bytes_sent_total == 3 * BLOCK_BYTES
        assert (stats.failures_total, server.stats().broken_off_total) == (0, 0)


@pytest.mark.parametrize("way", WAYS)
async def test_a_lease_can_be_fetched_once(way: str, blocks: Blocks) -> None:
    async with service(blocks.storage) as server, service() as client:
        source = blocks.source(7, shared=way != "shm copy")
        ticket = only(server.lease(source, blocks.release), way[:3])
        both = await asyncio.gather(fetch(client, ticket), fetch(client, ticket))

        assert sorted(records is None for records in both) == [False, True]
        assert client.stats().failures_total == 1
        assert client.stats().faults_total[way[:3]] == 1
        await until(lambda: blocks.num_released == 1)


async def test_the_fastest_way_that_both_have_is_taken(blocks: Blocks) -> None:
    async with service(blocks.storage) as server, service() as client, service(mode="tcp") as far:
        assert [a.partition(":")[0] for a in server.addresses] == ["shm", "tcp"]
        assert await fetch(client, server.lease(blocks.source(1), blocks.release))
        assert await fetch(far, server.lease(blocks.source(1), blocks.release))

        assert client.stats().fetched_total == {"shm": 1, "tcp": 0}
        assert far.stats().fetched_total == {"tcp": 1}


async def test_a_way_that_fails_gives_way_to_the_next_one(blocks: Blocks) -> None:
    async with service(blocks.storage) as server, service() as client:
        ticket = server.lease(blocks.source(1, 2), blocks.release)
        gone = ticket.addresses[0].replace("kv-", "kv-gone-")
        records = await fetch(client, replace(ticket, addresses=(gone, *ticket.addresses[1:])))

        assert [bytes(r) for r in records] == [record(1), record(2)]
        assert client.stats().fetched_total == {"shm": 0, "tcp": 1}
        assert client.stats().faults_total == {"shm": 1, "tcp": 0}
        assert client.stats().failures_total == 0


async def test_memory_of_another_host_is_not_tried(blocks: Blocks) -> None:
    async with service(blocks.storage) as server, service() as client:
        ticket = server.lease(blocks.source(1), blocks.release)
        foreign = ticket.addresses[0].replace(shm.host_identity(), "0" * 16)
        assert await fetch(client, replace(ticket, addresses=(foreign, ticket.addresses[1])))

        assert client.stats().faults_total == {"shm": 0, "tcp": 0}


async def test_a_server_of_one_mode_listens_on_nothing_else() -> None:
    modes: dict[TransferMode, list[str]] = {"shm": ["shm"], "tcp": ["tcp"], "auto": ["shm", "tcp"]}
    for mode, schemes in modes.items():
        async with service(mode=mode) as server:
            assert [a.partition(":")[0] for a in server.addresses] == schemes


async def test_any_bytes_travel_the_same_ways() -> None:
    async with service() as server, service() as client:
        parts = [os.urandom(3_000_000), b"", os.urandom(17)]
        for scheme in ("shm", "tcp"):
            ticket = only(server.lease_bytes(parts, FINGERPRINT), scheme)
            whole = await client.fetch_bytes(ticket, fingerprint=FINGERPRINT, max_bytes=4_000_000)

            assert whole is not None
            assert bytes(whole) == b"".join(parts)
        assert server.stats().leases == 0
        assert client.stats().failures_total == 0


async def test_bytes_of_another_kind_or_length_are_refused() -> None:
    async with service() as server, service() as client:
        ticket = server.lease_bytes([b"embedding"], FINGERPRINT)
        for told, most in ((b"x" * 32, 100), (FINGERPRINT, 8)):
            assert await client.fetch_bytes(ticket, fingerprint=told, max_bytes=most) is None

        assert client.stats().failures_total == 2
        assert client.stats().bytes_received_total == 0


async def test_32_transfers_at_once_all_come_through_in_little_memory(blocks: Blocks) -> None:
    async with service(blocks.storage) as server, service() as client:
        for scheme in ("shm", "tcp"):
            tickets = [
                only(server.lease(blocks.source(i, i + 1), blocks.release), scheme)
                for i in range(32)
            ]
            fetched = await asyncio.gather(*(fetch(client, ticket) for ticket in tickets))
            for i, records in enumerate(fetched):
                assert [bytes(r) for r in records] == [record(i), record(i + 1)]
        await until(lambda: blocks.num_released == 64)

        assert client.stats().failures_total == 0


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_nothing_is_left_when_all_is_done() -> None:
    before = open_files()
    for _ in range(3):
        blocks = Blocks()
        async with service(blocks.storage) as server, service() as client:
            for way in WAYS:
                source = blocks.source(1, 2, shared=way != "shm copy")
                ticket = only(server.lease(source, blocks.release), way[:3])
                assert await fetch(client, ticket)
            server.lease(blocks.source(1), blocks.release)
            path = socket_of(server)
            assert exists(path)
        assert not exists(path)
        del blocks, source, server, client

    assert [t for t in threading.enumerate() if t.name == "shepherd-transfer"] == []
    gc.collect()
    assert open_files() <= before
