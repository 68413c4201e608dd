"""A connection over which nothing comes any more is replaced, although its port still answers."""

from __future__ import annotations

import asyncio
import time

import zmq

from shepherd_events.codec import MAX_FRAME_BYTES
from shepherd_events.foreign.msgpack_form import MAX_PAYLOAD_BYTES
from shepherd_events.foreign.source import Connected, Disconnected, Message, SourceEvent
from shepherd_events.foreign.zmq_source import ZmqForeignSource
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.subscriber import Patience, subscribe
from shepherd_events.transports.zmq import ZmqPublisherTransport
from stream_readers import DEADLINE_S, INFO, STREAM, Reader, turn

PATIENCE = Patience(silence_s=0.3)


class TrippingTransport(ZmqPublisherTransport):
    """Sends a message that is larger than any reader takes, after which libzmq reads no more."""

    def __init__(self) -> None:
        super().__init__()
        self.trips = 0

    def send(self, topic: str, payload: bytes, frame_id: str = "") -> None:
        if self.trips:
            self.trips -= 1
            super().send(topic, bytes(MAX_FRAME_BYTES + 1))
        super().send(topic, payload, frame_id)


async def test_a_message_that_is_too_large_costs_a_reader_its_connection_and_nothing_else() -> None:
    transport = TrippingTransport()
    publisher = KvEventPublisher(STREAM, INFO, transport, heartbeat_s=0.05)
    publisher.start()
    try:
        async with subscribe(publisher.address, patience=PATIENCE) as subscription:
            reader = Reader(subscription)
            publisher.publish_turn(turn(1))
            await reader.read_up_to(2)

            transport.trips = 1
            number, heard_live, deadline = 2, False, time.monotonic() + DEADLINE_S
            while not heard_live:
                assert time.monotonic() < deadline, "everything comes by replay"
                replays = subscription.counters.replays
                publisher.publish_turn(turn(number))
                number += 1
                await reader.read_up_to(number)
                heard_live = not transport.trips and subscription.counters.replays == replays

            assert reader.numbers == [*range(1, number + 1)]
    finally:
        await asyncio.to_thread(publisher.close, "done")


async def test_a_bridge_hears_its_source_again_after_a_message_that_is_too_large() -> None:
    context = zmq.Context[zmq.Socket[bytes]]()
    foreign = context.socket(zmq.PUB)
    port = foreign.bind_to_random_port("tcp://127.0.0.1")
    source = ZmqForeignSource(f"tcp://127.0.0.1:{port}")
    heard: list[SourceEvent] = []

    def send(number: int, payload: bytes) -> None:
        foreign.send_multipart((b"", number.to_bytes(8, "big"), payload))

    async def hear(event: type[SourceEvent]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not any(isinstance(each, event) for each in heard):
                if event is Message:
                    send(len(heard), b"small")
                if (each := await source.next(0.05)) is not None:
                    heard.append(each)

    try:
        for event in (Connected, Message):
            await hear(event)
        heard.clear()
        send(9, bytes(MAX_PAYLOAD_BYTES + 1))
        for event in (Disconnected, Connected, Message):
            await hear(event)
    finally:
        await source.close()
        context.destroy(linger=0)

    assert [type(each) for each in heard if not isinstance(each, Message)] == [
        Disconnected,
        Connected,
    ]
