"""What the demo counts of its workers' streams."""

from __future__ import annotations

import asyncio

from shepherd_cli.watch import StreamWatcher
from shepherd_events.discovery import StreamDescriptor, StreamJoined, StreamLeft
from shepherd_events.events import StreamId
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.transports.zmq import ZmqPublisherTransport
from shepherd_memory.fake import FakeDirectory
from stream_readers import INFO, removed, stored, until


async def test_blocks_are_counted_by_worker_also_when_it_has_left() -> None:
    directory = FakeDirectory()
    publishers = []
    for worker in ("a", "b"):
        publisher = KvEventPublisher(StreamId(worker), INFO, ZmqPublisherTransport())
        publisher.start()
        publisher.publish([stored(1, 2, 3), removed(2)])
        publishers.append(publisher)
        described = StreamDescriptor(publisher.address, role=worker, model="m", block_size=2)
        directory.say(StreamJoined(described))
    watcher = StreamWatcher(directory)
    running = asyncio.create_task(watcher.run())
    try:
        await until(lambda: watcher.totals() == {"stored": 6, "removed": 2})
        directory.say(StreamLeft(StreamId("b")))
        publishers[0].publish([stored(9)])
        await until(lambda: watcher.totals()["stored"] == 7)
    finally:
        running.cancel()
        await asyncio.wait([running])
        for publisher in publishers:
            publisher.close("done")

    shown = {
        view.role: (view.stored, view.removed, view.resident) for view in watcher.views.values()
    }
    assert shown == {"a": (4, 1, 3), "b": (3, 1, 2)}
