"""A connection over which nothing comes any more is replaced, although its port still answers."""

from __future__ import annotations

import asyncio
import time

from shepherd_events.codec import MAX_FRAME_BYTES
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
