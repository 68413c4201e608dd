"""Records read by NIXL: by the real one where it is installed, and by one that fails as told."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pytest

from engine_calls import until
from shepherd_worker.engine.embedded.transfer.client import TransferClient
from shepherd_worker.engine.embedded.transfer.frames import Kind
from shepherd_worker.engine.embedded.transfer.leases import Leases
from shepherd_worker.engine.embedded.transfer.nixl import (
    NixlServer,
    NixlTransport,
    is_nixl_installed,
    make_agent,
)
from shepherd_worker.engine.embedded.transfer.server import TransferServer
from shepherd_worker.engine.embedded.transfer.staging import Staging
from shepherd_worker.engine.embedded.transfer.tcp import TcpAdmission, bind_tcp
from shepherd_worker.engine.protocol import Ticket
from shepherd_worker.errors import UnreachableError
from transfer_calls import BLOCK_BYTES, FINGERPRINT, Blocks, fetch, only, record, service

real = pytest.mark.skipif(not is_nixl_installed(), reason="the package nixl is not installed")


@real
async def test_nixl_reads_blocks_out_of_another_agents_memory() -> None:
    blocks = Blocks()
    async with (
        service(blocks.storage, mode="nixl") as server,
        service(mode="nixl") as client,
        service(mode="tcp") as without,
    ):
        assert [a.partition(":")[0] for a in server.addresses] == ["nixl", "tcp"]
        for block_ids in ((3, 9, 4), (1,)):
            ticket = only(server.lease(blocks.source(*block_ids), blocks.release), "nixl")
            records = await fetch(client, ticket)
            assert [bytes(r) for r in records] == [record(i) for i in block_ids]
        assert await fetch(without, server.lease(blocks.source(1), blocks.release))
        elsewhere = server.lease(blocks.source(1, shared=False), blocks.release)
        assert [a.partition(":")[0] for a in elsewhere.addresses] == ["tcp"]
        assert await fetch(client, elsewhere)

        assert client.stats().fetched_total == {"nixl": 2, "tcp": 1}
        assert client.stats().failures_total == server.stats().broken_off_total == 0
        await until(lambda: blocks.num_released == 4)


@pytest.mark.skipif(is_nixl_installed(), reason="the package nixl is installed")
def test_nixl_that_is_asked_for_and_not_there_is_told_in_a_line() -> None:
    with pytest.raises(UnreachableError, match=r"pip install 'shepherd-worker\[nixl\]'"):
        make_agent()


class CopyingAgent:
    """A `NixlAgent` within one process: copies, or does what it is told instead."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.registered: list[Any] = []
        self.remotes: list[str] = []

    def register_memory(self, reg_list: object, mem_type: str) -> Any:
        assert mem_type == "DRAM"
        self.registered.append(reg_list)
        return reg_list

    def deregister_memory(self, dereg_list: Any) -> None:
        self.registered.remove(dereg_list)

    def get_agent_metadata(self) -> bytes:
        return b"copying agent"

    def add_remote_agent(self, metadata: bytes) -> str:
        self.remotes.append(metadata.decode())
        return metadata.decode()

    def remove_remote_agent(self, agent: str | bytes) -> None:
        self.remotes.remove(str(agent))

    def get_xfer_descs(self, descs: object, mem_type: str) -> Any:
        return descs

    def initialize_xfer(self, operation: str, local: Any, remote: Any, agent: str | bytes) -> Any:
        assert operation == "READ"
        if self.fault == "raises":
            raise ValueError("no such segment")
        for (to, size, _), (source, same, _) in zip(local, remote, strict=True):
            assert size == same
            if self.fault != "reads nothing":
                ctypes.memmove(to, source, size)
        return object()

    def transfer(self, handle: Any) -> str:
        return "PROC"

    def check_xfer_state(self, handle: Any) -> str:
        return {"fails": "ERR", "never ends": "PROC"}.get(self.fault, "DONE")

    def release_xfer_handle(self, handle: Any) -> None:
        if self.fault == "never ends":
            raise ValueError("still running")


async def through_fake(
    fault: str, check: Callable[[TransferClient, Staging, Any, Blocks, CopyingAgent], None]
) -> None:
    blocks, leases = Blocks(), Leases()
    agent = CopyingAgent(fault)
    server = TransferServer(leases, timeout_s=1.0)
    nixl = NixlServer(CopyingAgent(), blocks.storage)
    listener, address = bind_tcp("127.0.0.1")
    server.listen(listener, {Kind.REMOTE_CLAIM: nixl.serve_claim}, TcpAdmission(None))
    staging = Staging()
    client = TransferClient(staging)
    client.use([NixlTransport(agent, secret=None, timeout_s=0.2)])
    source = blocks.source(5, 2)
    ticket = Ticket(
        addresses=(address.replace("tcp", "nixl", 1),),
        transfer_id=leases.offer(source, blocks.release).hex(),
        fingerprint=FINGERPRINT.hex(),
        record_bytes=BLOCK_BYTES,
        num_records=2,
    )
    fetched = await client.fetch(ticket, 0, 2)
    await server.close()
    await client.close()
    nixl.close()

    assert agent.remotes == agent.registered == []
    assert blocks.num_released == 1
    check(client, staging, fetched, blocks, agent)


async def test_an_agent_that_copies_brings_the_records() -> None:
    def check(client: TransferClient, _: Staging, fetched: Any, *__: Any) -> None:
        assert bytes(fetched) == record(5) + record(2)
        assert client.fetched_total == {"nixl": 1}

    await through_fake("", check)


@pytest.mark.parametrize("fault", ["raises", "fails", "reads nothing", "never ends"])
async def test_a_read_that_fails_is_counted_and_ends_the_lease(fault: str) -> None:
    def check(client: TransferClient, staging: Staging, fetched: Any, *_: Any) -> None:
        assert fetched is None
        assert client.faults_total == {"nixl": 1}
        assert client.failures_total == 1
        # what the card may still write to is not lent again
        assert (staging.bytes_lent > 0) == (fault == "never ends")

    await through_fake(fault, check)
