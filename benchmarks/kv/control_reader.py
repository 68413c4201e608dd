"""Asks a publisher for snapshots or replays, from a process of its own.

    python -m benchmarks.kv.control_reader snapshot|replay LIVE CONTROL EPOCH

Does its job once for every line on standard input, and answers each with one line
of JSON: `seconds` it took, and `count` of blocks or frames that came.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from typing import Self

import zmq

from benchmarks.kv.workload import STREAM
from shepherd_events.control_client import ControlClient
from shepherd_events.events import StreamAddress
from shepherd_events.transports import connect

PAGE_BYTES = 512 << 10
REQUEST_S = 30.0


class ControlReader:
    """The other process."""

    def __init__(self, job: str, address: StreamAddress) -> None:
        command = [sys.executable, "-m", "benchmarks.kv.control_reader", job]
        command += [address.live, address.control, str(address.epoch)]
        self._process = subprocess.Popen(  # noqa: S603 - ours
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._asks, self._answers = self._process.stdin, self._process.stdout
        self._poller = zmq.Poller()
        self._poller.register(self._answers.fileno(), zmq.POLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._asks.close()
        self._process.wait()
        self._answers.close()

    def ask(self) -> None:
        """Begin the job."""
        self._asks.write("\n")
        self._asks.flush()

    @property
    def is_done(self) -> bool:
        """Whether the job ended."""
        return bool(self._poller.poll(0))

    def answer(self) -> tuple[float, int]:
        """Seconds and count, once the job ended."""
        told = json.loads(self._answers.readline())
        return told["seconds"], told["count"]


async def _snapshot(client: ControlClient, epoch: int) -> int:
    del epoch
    return sum(len(run.block_hashes) for run in (await client.snapshot()).blocks)


async def _replay(client: ControlClient, epoch: int) -> int:
    num_frames, next_seq = 0, 1
    while True:
        reply = await client.replay(epoch, next_seq)
        num_frames += len(reply.frames)
        next_seq = reply.next_seq
        if next_seq > reply.head_seq:
            return num_frames


async def _serve() -> None:
    job, live, control, epoch = sys.argv[1:]
    transport = connect(StreamAddress(STREAM, int(epoch), "zmq", live, control))
    client = ControlClient(STREAM, transport, timeout_s=REQUEST_S, page_bytes=PAGE_BYTES)
    for _ in sys.stdin:
        began = time.monotonic()
        count = await (_snapshot if job == "snapshot" else _replay)(client, int(epoch))
        print(json.dumps({"seconds": time.monotonic() - began, "count": count}), flush=True)
    await transport.close()


if __name__ == "__main__":
    asyncio.run(_serve())
