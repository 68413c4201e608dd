"""Replays of 10,000 batches: to a consumer that is busy, beside live frames; and a lost last frame."""

from __future__ import annotations

import asyncio
import time
from array import array

import zmq

from benchmarks.figure import Figure, compare
from benchmarks.kv.control_reader import ControlReader
from benchmarks.kv.listener import Listener
from benchmarks.kv.msgpack_peer import RING_BATCHES, MsgpackPublisher
from benchmarks.kv.workload import INFO, STREAM, WARMING_UP, workload
from shepherd_events.events import Attribution, BlocksRemoved, Frame, TurnCompleted
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.subscriber import Position, StreamState, subscribe
from shepherd_events.transports.memory import MemoryBroker, MemoryPublisherTransport
from shepherd_events.transports.zmq import ZmqPublisherTransport

BUSY_S, PATIENCE_MS = 1.0, 2_000
LIVE_EVENTS, EVENTS_PER_S, EVENTS_BETWEEN_LOOKS = 4_000, 2_000, 20
HEARTBEAT_S, ROUND_TRIP_S, GOAL_P50_MS = 1.0, 0.05, 0.5


def figures(rounds: int) -> list[Figure]:
    """Batches that arrive out of 10,000, milliseconds to a live frame, seconds to a lost one."""
    ours, peers, beside, alone, found = (list[float]() for _ in range(5))
    for _ in range(rounds):
        ours.append(float(asyncio.run(_ours())))
        peers.append(float(_peer()))
        beside.append(_live_p50_ms(replays=True))
        alone.append(_live_p50_ms(replays=False))
        found.append(asyncio.run(_last_frame_s()))
    live = "live p50 beside replays"
    return [
        compare(
            "replay, busy consumer",
            ours,
            peers,
            peer_name="vLLM's form",
            unit="batches",
            goal=RING_BATCHES / max(peers) if max(peers) < RING_BATCHES else 1.0,
        ),
        compare(live, beside, alone, peer_name="no replays", unit="ms", less_is_better=True),
        compare(
            live,
            beside,
            [GOAL_P50_MS],
            peer_name="the goal",
            unit="ms",
            goal=1.0,
            less_is_better=True,
        ),
        compare(
            "a lost last frame is found",
            found,
            [HEARTBEAT_S + ROUND_TRIP_S],
            peer_name="heartbeat, round trip",
            unit="s",
            goal=1.0,
            less_is_better=True,
        ),
    ]


def _with_full_ring() -> KvEventPublisher:
    """Every batch is a frame of its own: a turn between two events keeps them apart."""
    publisher = KvEventPublisher(STREAM, INFO, ZmqPublisherTransport(), ring_bytes=1 << 30)
    publisher.start()
    for number, event in enumerate(workload(RING_BATCHES // 2).ours):
        publisher.publish([event])
        publisher.publish_turn(_turn(number))
    while publisher.counters.frames <= RING_BATCHES:
        time.sleep(0.01)
    return publisher


async def _ours() -> int:
    publisher = await asyncio.to_thread(_with_full_ring)
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


def _live_p50_ms(*, replays: bool) -> float:
    """From publish() to decoded in another process, while a third one reads the ring in circles."""
    publisher = _with_full_ring()
    listener = Listener("ours", publisher.address.live, LIVE_EVENTS)
    listener.wait_ready(lambda: publisher.publish([BlocksRemoved(array("Q", [WARMING_UP]))]))
    with ControlReader("replay", publisher.address) as reader:
        if replays:
            reader.ask()
        due = time.monotonic()
        for number, event in enumerate(workload(LIVE_EVENTS).ours):
            if (wait := due - time.monotonic()) > 0:
                time.sleep(wait)
            due += 1 / EVENTS_PER_S
            publisher.publish([event])
            if replays and number % EVENTS_BETWEEN_LOOKS == 0 and reader.is_done:
                _, count = reader.answer()
                assert count > RING_BATCHES
                reader.ask()
        heard = listener.wait_heard()
        if replays:
            reader.answer()
    publisher.close("done")
    return heard.percentile(50) * 1e3


class _LosesOne(MemoryPublisherTransport):
    """The wire within a process; the next frame gets lost where one says so."""

    lose = False

    def send(self, topic: str, payload: bytes, frame_id: str = "") -> None:
        if self.lose and frame_id:
            self.lose = False
        else:
            super().send(topic, payload, frame_id)


async def _last_frame_s() -> float:
    """From a publish() whose frame gets lost, and after which nothing is told, to its delivery."""
    broker = MemoryBroker()
    transport = _LosesOne(broker, "bench")
    publisher = KvEventPublisher(STREAM, INFO, transport, heartbeat_s=HEARTBEAT_S)
    publisher.start()
    async with subscribe(publisher.address, connect=broker.connect) as subscription:
        while subscription.state is not StreamState.LIVE:
            await anext(subscription)
        transport.lose = True
        began = time.monotonic()
        publisher.publish([BlocksRemoved(array("Q", [WARMING_UP]))])
        await anext(subscription)
        took_s = time.monotonic() - began
    await asyncio.to_thread(publisher.close, "done")
    return took_s
