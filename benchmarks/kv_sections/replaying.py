"""A replay of 10,000 batches to a consumer that is busy for a second after it asked."""

from __future__ import annotations

import asyncio
import time
from array import array

import zmq

from benchmarks.figure import Figure, compare
from benchmarks.kv.msgpack_peer import RING_BATCHES, MsgpackPublisher
from benchmarks.kv.workload import INFO, STREAM, workload
from shepherd_events.events import Attribution, Frame, TurnCompleted
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.subscriber import Position, subscribe
from shepherd_events.transports.zmq import ZmqPublisherTransport

BUSY_S, PATIENCE_MS = 1.0, 2_000


def figures(rounds: int) -> list[Figure]:
    """Batches that arrive, out of 10,000."""
    ours, peers = [], []
    for _ in range(rounds):
        ours.append(float(asyncio.run(_ours())))
        peers.append(float(_peer()))
    return [compare("replay, busy consumer", ours, peers, peer_name="msgpack form", unit="batches")]


async def _ours() -> int:
    """Every batch is a frame of its own: a turn between two events keeps them apart."""
    publisher = KvEventPublisher(STREAM, INFO, ZmqPublisherTransport(), ring_bytes=1 << 30)
    publisher.start()
    for number, event in enumerate(workload(RING_BATCHES // 2).ours):
        publisher.publish([event])
        publisher.publish_turn(_turn(number))
    received = 0
    async with subscribe(publisher.address, after=Position(publisher.epoch, 1)) as subscription:
        async for item in subscription:
            if received == 0:
                time.sleep(BUSY_S)  # noqa: ASYNC251 - a consumer that is busy, as told
            received += isinstance(item, Frame)
            if received == RING_BATCHES:
                break
    publisher.close("done")
    return received


def _turn(number: int) -> TurnCompleted:
    return TurnCompleted(Attribution(f"request-{number}"), 0, 0, 0, None, 0, array("I"), "stop", 1)


def _peer() -> int:
    with MsgpackPublisher() as publisher:
        for event in workload(RING_BATCHES).peers:
            publisher.publish([event])
        context = zmq.Context[zmq.Socket[bytes]]()
        reader = context.socket(zmq.DEALER)
        reader.connect(publisher.replay)
        time.sleep(BUSY_S)
        reader.send_multipart((b"", (0).to_bytes(8, "big")))
        time.sleep(BUSY_S)
        received = 0
        while reader.poll(PATIENCE_MS):
            if not reader.recv_multipart()[-1]:
                break
            received += 1
        reader.close(linger=0)
        context.term()
        return received
