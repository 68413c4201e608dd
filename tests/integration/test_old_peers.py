"""Row 16 with real processes: a reader and a writer of version 1.0 beside today's."""

from __future__ import annotations

import asyncio
from pathlib import Path

from line_process import LineProcess
from shepherd_events.events import StreamAddress, StreamId
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.resident_set import ResidentSet
from shepherd_events.subscriber import StreamState, subscribe
from shepherd_events.transports.zmq import ZmqPublisherTransport
from soak.scene import PYTHON_PATH
from stream_readers import INFO, Reader, removed, stored

PROGRAM = str(Path(__file__).parents[1] / "old_peer.py")
LAST = 20


async def test_row_16_a_reader_of_version_1_0_follows_todays_publisher() -> None:
    publisher = KvEventPublisher(StreamId("new"), INFO, ZmqPublisherTransport(), heartbeat_s=0.05)
    publisher.start()
    for number in range(1, 40):
        publisher.publish([stored(number)])
        await asyncio.sleep(0)
    publisher.publish([removed(3, 5)])
    address, frames = publisher.address, str(publisher.head_seq)
    reader = await asyncio.to_thread(
        lambda: LineProcess(
            PROGRAM, "read", address.live, address.control, "new", frames, env=PYTHON_PATH
        )
    )
    told = reader.started
    reader.end()
    (truth,) = publisher._residents.digest()
    publisher.close("done")

    assert set(told["held"]) == set(range(1, 40)) - {3, 5}
    assert told["told"] == [truth.blocks, truth.xor], "the heartbeat's digest, as it reads it"


async def test_row_16_todays_reader_follows_a_writer_of_version_1_0() -> None:
    writer = await asyncio.to_thread(lambda: LineProcess(PROGRAM, "write", env=PYTHON_PATH))
    live, control = (f"tcp://127.0.0.1:{writer.started[name]}" for name in ("live", "control"))
    address = StreamAddress(StreamId("old"), writer.started["epoch"], "zmq", live, control)
    residents = ResidentSet()
    try:
        async with subscribe(address, residents=residents) as subscription:
            reader = Reader(subscription)
            await reader.read_up_to(LAST)
            await reader.read_until(lambda: subscription.counters.digest_checks > 0)

            assert reader.numbers == list(range(1, LAST + 1))
            assert residents.hashes() == set(range(4, 2 * LAST + 2))
            assert subscription.state is StreamState.LIVE
            assert (subscription.counters.digest_mismatches, reader.resets) == (0, [])
            assert subscription.counters.corrupt == 0, "no checksum is no error"
    finally:
        writer.end()
