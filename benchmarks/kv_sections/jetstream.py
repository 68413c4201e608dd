"""JetStream: publishing until everything is acknowledged, and a broker that is killed meanwhile."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from nats.aio.client import Client

from benchmarks.figure import Figure, Spread, compare
from benchmarks.kv.msgpack_peer import ENCODER, EventBatch
from benchmarks.kv.workload import INFO, STREAM, Workload, workload
from shepherd_events.codec import decode_frame
from shepherd_events.control_client import ControlClient
from shepherd_events.events import StreamAddress
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.transports import connect
from shepherd_events.transports.nats_publisher import NatsPublisherTransport
from tests.nats_broker import NatsBroker

EVENTS, EVENTS_PER_S, PEER_WINDOW = 10_000, 2_000, 256
OUTAGE_S, RECOVERY_GOAL_S = 1.0, 5.0
REQUEST_S, PAGE_BYTES = 30.0, 512 << 10


def figures(rounds: int) -> list[Figure]:
    """Acknowledged events per second; seconds to recover; frames that are missing afterwards."""
    ours, peers, recovered, lost = (list[float]() for _ in range(4))
    work = workload(EVENTS)
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as directory:
            broker = NatsBroker(Path(directory)).start()
            try:
                peers.append(EVENTS / asyncio.run(_peer_s(broker, work)))
                ours.append(EVENTS / _ours_s(broker, work))
                seconds, missing = _outage(broker, work)
                recovered.append(seconds)
                lost.append(float(missing))
            finally:
                broker.kill()
    return [
        compare(
            "JetStream, acknowledged",
            ours,
            peers,
            peer_name="one event a message",
            unit="events/s",
            goal=1.0,
        ),
        compare(
            "recovery after kill -9",
            recovered,
            [RECOVERY_GOAL_S],
            peer_name="the goal",
            unit="s",
            goal=1.0,
            less_is_better=True,
        ),
        Figure(
            figure="acked frames lost by kill -9",
            ours=sum(lost),
            peer=0.0,
            peer_name="the goal",
            ratio=0.0 if any(lost) else 1.0,
            unit="frames",
            spread=Spread(min(lost), max(lost), f"lowest and highest of {rounds} rounds"),
            goal=1.0,
            met=not any(lost),
        ),
    ]


class _Told:
    """Our publisher to a log in a broker."""

    def __init__(self, broker: NatsBroker) -> None:
        self.transport = NatsPublisherTransport(broker.url, STREAM)
        self.publisher = KvEventPublisher(
            STREAM, INFO, self.transport, max_queued_events=2 * EVENTS, ring_bytes=1 << 30
        )
        self.publisher.start()

    def wait_acknowledged(self, num_events: int) -> None:
        """Everything is in the log."""
        while self.publisher.counters.events < num_events or self.transport.backlog.frames:
            time.sleep(0.001)


def _ours_s(broker: NatsBroker, work: Workload) -> float:
    told = _Told(broker)
    began = time.monotonic()
    for event in work.ours:
        told.publisher.publish([event])
    told.wait_acknowledged(len(work.ours))
    took_s = time.monotonic() - began
    told.publisher.close("done")
    return took_s


async def _peer_s(broker: NatsBroker, work: Workload) -> float:
    """As many publishes at once as the window holds, each waiting for its acknowledgement."""
    client = Client()
    await client.connect(broker.url)
    log = client.jetstream()
    await log.add_stream(name="peer", subjects=["peer"])
    window = asyncio.Semaphore(PEER_WINDOW)

    async def tell(payload: bytes) -> None:
        async with window:
            await log.publish("peer", payload)

    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for event in work.peers:
            tasks.create_task(tell(ENCODER.encode(EventBatch(time.time(), [event]))))
    took_s = time.monotonic() - began
    await client.close()
    return took_s


def _outage(broker: NatsBroker, work: Workload) -> tuple[float, int]:
    """Kill the broker while events are told; seconds from its return until all are acknowledged."""
    told = _Told(broker)
    returned_at, due = 0.0, time.monotonic()
    kill_at, return_at = EVENTS // 4, EVENTS // 4 + int(OUTAGE_S * EVENTS_PER_S)
    for number, event in enumerate(work.ours):
        if (wait := due - time.monotonic()) > 0:
            time.sleep(wait)
        due += 1 / EVENTS_PER_S
        told.publisher.publish([event])
        if number == kill_at:
            broker.kill()
        elif number == return_at:
            broker.start()
            returned_at = time.monotonic()
            break
    told.wait_acknowledged(return_at + 1)
    took_s = time.monotonic() - returned_at
    head, address = told.publisher.head_seq, told.publisher.address
    told.publisher.close("done")
    return took_s, head - asyncio.run(_num_logged(address, head))


async def _num_logged(address: StreamAddress, head: int) -> int:
    """Frames of an epoch that the log still has, up to the head, once the publisher is gone."""
    transport = connect(address)
    client = ControlClient(STREAM, transport, timeout_s=REQUEST_S, page_bytes=PAGE_BYTES)
    sequences: set[int] = set()
    next_seq = 1
    while next_seq <= head:
        reply = await client.replay(address.epoch, next_seq)
        assert reply.next_seq > next_seq, reply.status
        sequences.update(decode_frame(payload).seq for payload in reply.frames)
        next_seq = reply.next_seq
    await transport.close()
    return len(sequences.intersection(range(1, head + 1)))
