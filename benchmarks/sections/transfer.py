"""Moving the KV of a long prompt from another process, beside what the machine can do.

256 blocks of 384 KiB, 101 MB, from a process that leases them into memory that
`Runner.write_blocks` takes.

    shared memory   beside a copy of as many bytes within this process
    tcp             beside a raw socket over loopback, sendall to recv_into, which checks nothing
    tcp, 32 at once the sum of 32 transfers, beside one alone
"""

from __future__ import annotations

import asyncio
import json
import mmap
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.figure import Figure, compare
from benchmarks.transfer_source import BLOCK_BYTES, FINGERPRINT, NUM_BLOCKS, NUM_BYTES
from shepherd_worker.engine.embedded.transfer.service import TransferOptions, TransferService
from shepherd_worker.engine.protocol import Ticket

GOAL = 0.7
CONCURRENT = 32
PER_ROUND = 5
"""Each round takes the median of so many, one after the other for ours and the peer."""


@dataclass(frozen=True, slots=True)
class _Source:
    process: subprocess.Popen[str]
    raw_port: int

    def ticket(self, scheme: str) -> Ticket:
        """A new lease, reached by one transport."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write("\n")
        stdin.flush()
        ticket = Ticket(**json.loads(stdout.readline()))
        return replace(ticket, addresses=tuple(a for a in ticket.addresses if a.startswith(scheme)))


def figures(rounds: int) -> list[Figure]:
    """Gigabytes per second."""
    with _source() as source:
        taken = asyncio.run(_measure(source, rounds * PER_ROUND))
    rows = (
        ("shared memory", "shm", "copy", "numpy copy", GOAL),
        ("tcp", "tcp", "raw", "raw loopback socket", GOAL),
        (f"tcp, {CONCURRENT} at once", "tcp at once", "tcp", "one transfer", None),
    )
    return [
        compare(name, taken[ours], taken[peer], peer_name=peer_name, unit="GB/s", goal=goal)
        for name, ours, peer, peer_name, goal in rows
    ]


async def _measure(source: _Source, rounds: int) -> dict[str, list[float]]:
    service = TransferService(TransferOptions(), released=lambda: None)
    await service.start()
    memory = mmap.mmap(-1, NUM_BYTES)
    target = np.frombuffer(memory, np.uint8)
    payload = np.ones(NUM_BYTES, np.uint8)
    taken: dict[str, list[float]] = defaultdict(list)
    for round_ in range(rounds + 1):
        rates = {
            "copy": _copy(payload, target),
            "shm": await _fetch(service, source, "shm", 1),
            "raw": _receive_raw(source.raw_port, memoryview(memory)),
            "tcp": await _fetch(service, source, "tcp", 1),
            "tcp at once": await _fetch(service, source, "tcp", CONCURRENT),
        }
        for name, rate in rates.items():
            if round_:  # the first has to get its memory
                taken[name].append(rate)
    await service.close()
    return taken


async def _fetch(service: TransferService, source: _Source, scheme: str, at_once: int) -> float:
    """All blocks, in `at_once` transfers of equal size."""
    tickets = [source.ticket(scheme) for _ in range(at_once)]
    share = NUM_BLOCKS // at_once
    began = time.perf_counter()
    fetched = await asyncio.gather(
        *(
            service.fetch(
                ticket, i * share, share, fingerprint=FINGERPRINT, record_bytes=BLOCK_BYTES
            )
            for i, ticket in enumerate(tickets)
        )
    )
    seconds = time.perf_counter() - began
    assert all(fetched)
    return NUM_BYTES / seconds / 1e9


def _copy(
    payload: np.ndarray[tuple[int], np.dtype[np.uint8]],
    target: np.ndarray[tuple[int], np.dtype[np.uint8]],
) -> float:
    began = time.perf_counter()
    np.copyto(target, payload)
    return NUM_BYTES / (time.perf_counter() - began) / 1e9


def _receive_raw(port: int, target: memoryview) -> float:
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while len(target):
            target = target[connection.recv_into(target) :]
    return NUM_BYTES / (time.perf_counter() - began) / 1e9


@contextmanager
def _source() -> Iterator[_Source]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.transfer_source"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield _Source(process, int(process.stdout.readline()))
        process.stdin.close()
