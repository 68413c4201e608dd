"""Hears a stream in a process of its own and says when it had everything, and how late it was.

    python -m benchmarks.kv.listener ours|msgpack ENDPOINT NUM_EVENTS

Every token and hash becomes a Python int, whatever the wire.  Prints `ready` once
something arrives, then one JSON object.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import zmq

from benchmarks.kv.msgpack_peer import DECODER
from benchmarks.kv.workload import WARMING_UP
from shepherd_events.codec import decode_frame
from shepherd_events.events import BlockBatch, BlocksStored


@dataclass(frozen=True, slots=True)
class Heard:
    """What a listener says in the end."""

    ended_at: float
    """On the clock `time.monotonic`, which processes share."""
    late_s: tuple[float, ...]
    """From publish() to decoded, by message, in ascending order."""
    cpu_s: float
    """Of the whole process, since something arrived."""

    def percentile(self, of_100: int) -> float:
        """Seconds."""
        return self.late_s[min(len(self.late_s) - 1, len(self.late_s) * of_100 // 100)]


class Listener:
    """The other process."""

    def __init__(self, kind: str, endpoint: str, num_events: int) -> None:
        command = [sys.executable, "-m", "benchmarks.kv.listener", kind, endpoint, str(num_events)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - ours

    def wait_ready(self, tell: Callable[[], object]) -> None:
        """`tell` something until it hears."""
        assert self._process.stdout is not None
        poller = zmq.Poller()
        poller.register(self._process.stdout.fileno(), zmq.POLLIN)
        while not poller.poll(20):
            tell()
        assert self._process.stdout.readline() == "ready\n"
        time.sleep(0.2)

    def wait_heard(self) -> Heard:
        """Everything arrived."""
        out, _ = self._process.communicate(timeout=120)
        told = json.loads(out)
        return Heard(told["ended_at"], tuple(told["late_s"]), told["cpu_s"])


def read_ours(payload: bytes) -> tuple[float, list[list[int]]]:
    """When a frame was told, and the hashes of each of its events; all tokens are read, too."""
    frame = decode_frame(payload)
    hashes = []
    for event in frame.body.events if isinstance(frame.body, BlockBatch) else ():
        if isinstance(event, BlocksStored):
            event.token_ids.tolist()
        hashes.append(event.block_hashes.tolist())  # type: ignore[union-attr]  # nothing is cleared
    return frame.ts_unix_ns / 1e9, hashes


def read_msgpack(payload: bytes) -> tuple[float, list[list[int]]]:
    """As `read_ours`; decoding alone makes every token an int."""
    batch: Any = DECODER.decode(payload)
    return batch.ts, [event.block_hashes for event in batch.events]


def main() -> None:
    """Listen."""
    kind, endpoint, num_events = sys.argv[1], sys.argv[2], int(sys.argv[3])
    read = read_ours if kind == "ours" else read_msgpack
    socket = zmq.Context[zmq.Socket[bytes]]().socket(zmq.SUB)
    socket.set_hwm(0)
    socket.subscribe(b"kv")
    socket.connect(endpoint)
    late: list[float] = []
    left, began = num_events, 0.0
    while left > 0:
        ts, events = read(socket.recv_multipart()[-1])
        if not began and events:
            print("ready", flush=True)
            began = time.process_time()
        real = [hashes for hashes in events if hashes != [WARMING_UP]]
        if real:
            left -= len(real)
            late.append(time.time() - ts)
    told = {"ended_at": time.monotonic(), "cpu_s": time.process_time() - began}
    print(json.dumps(told | {"late_s": sorted(late)}))
    socket.close(linger=0)


if __name__ == "__main__":
    main()
