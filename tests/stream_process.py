"""A publisher, or a consumer, in a process of its own that tests may kill and stop.

    python stream_process.py publish LIVE_PORT CONTROL_PORT EPOCH_FILE
    python stream_process.py consume ADDRESS_AS_JSON

Either reads commands from its standard input and answers each with a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from array import array
from pathlib import Path
from random import Random
from typing import Any

from line_process import LineProcess, say
from shepherd_events.epoch_file import EpochFile
from shepherd_events.events import (
    BlocksRemoved,
    BlocksStored,
    StreamAddress,
    StreamId,
    StreamInfo,
    TierState,
)
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.resident_set import ResidentSet
from shepherd_events.subscriber import Patience, subscribe
from shepherd_events.transports.zmq import ZmqPublisherTransport

STREAM = StreamId("worker-1", 0)
HEARTBEAT_S = 0.05
PATIENCE = Patience(
    silence_s=0.3, request_s=0.3, first_retry_s=0.02, last_retry_s=0.2, between_snapshots_s=0.05
)
CACHE_BLOCKS = 200


class StreamProcess(LineProcess):
    """The other process, as a test sees it."""

    def __init__(self, *arguments: str) -> None:
        super().__init__(__file__, *arguments)


class PublisherPlace:
    """Two ports and a file with the last epoch, for one publisher after the other."""

    def __init__(self, directory: Path) -> None:
        from shepherd_cli.stack import free_port  # heavy, and the processes need none of it

        self.live, self.control = free_port(), free_port()
        self._epochs = str(directory / "epoch")

    def start(self) -> StreamProcess:
        return StreamProcess("publish", str(self.live), str(self.control), self._epochs)


def address_of(epoch: int, live_port: int, control_port: int) -> StreamAddress:
    live, control = (f"tcp://127.0.0.1:{port}" for port in (live_port, control_port))
    return StreamAddress(STREAM, epoch, "zmq", live, control)


def digest_json(states: tuple[TierState, ...]) -> list[list[int]]:
    return [[int(state.tier), state.blocks, state.xor] for state in states]


def publish(live_port: int, control_port: int, epochs: str) -> None:
    """Commands: `events N` publishes a random cache's life, `truth` says what is resident."""
    transport = ZmqPublisherTransport("127.0.0.1", live_port, control_port)
    info = StreamInfo(model="model-1", block_size=2, hash_algo="blake2b-64/v1")
    publisher = KvEventPublisher(
        STREAM, info, transport, heartbeat_s=HEARTBEAT_S, epoch_file=EpochFile(epochs)
    )
    publisher.start()
    say({"epoch": publisher.epoch})
    random, truth, took = Random(publisher.epoch), dict[int, None](), list[float]()
    for line in sys.stdin:
        command, _, number = line.strip().partition(" ")
        for _ in range(int(number or 0)):
            block_hash = random.getrandbits(63) + 1
            truth[block_hash] = None
            events: list[BlocksStored | BlocksRemoved] = [
                BlocksStored(array("Q", [block_hash]), None, array("I", [1, 2]), 0)
            ]
            if len(truth) > CACHE_BLOCKS:
                oldest = next(iter(truth))
                del truth[oldest]
                events.append(BlocksRemoved(array("Q", [oldest])))
            began = time.perf_counter()
            publisher.publish(events)
            took.append(time.perf_counter() - began)
        if command == "truth":
            blocks = [BlocksStored(array("Q", truth), None, array("I"), 0)]
            say(
                {
                    "position": [publisher.epoch, publisher.head_seq],
                    "digest": digest_json(ResidentSet(blocks).digest() if truth else ()),
                    "publish_p99_s": sorted(took)[len(took) * 99 // 100] if took else 0.0,
                    "frames": publisher.counters.frames,
                }
            )


async def consume(address: dict[str, Any]) -> None:
    """The command `where` says what was applied and what the stream's state is."""
    stream = StreamId(**address.pop("stream"))
    residents = ResidentSet()
    where = StreamAddress(stream=stream, **address)
    async with subscribe(where, patience=PATIENCE, residents=residents) as subscription:

        async def read() -> None:
            async for _ in subscription:
                pass

        reading = asyncio.ensure_future(read())
        say({})
        while await asyncio.to_thread(sys.stdin.readline):
            position = subscription.position
            say(
                {
                    "state": subscription.state.value,
                    "position": [position.epoch, position.seq],
                    "digest": digest_json(residents.digest()),
                    "snapshots": subscription.counters.snapshots,
                    "replays": subscription.counters.replays,
                }
            )
        reading.cancel()


if __name__ == "__main__":
    if sys.argv[1] == "publish":
        publish(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    else:
        asyncio.run(consume(json.loads(sys.argv[2])))
