"""Snapshots while another thread changes what is resident, each cut at its number."""

from __future__ import annotations

import asyncio
import threading
from array import array
from random import Random

from shepherd_events.control_client import ControlClient, Snapshot
from shepherd_events.errors import NoAnswerError
from shepherd_events.events import BlockEvent, BlocksRemoved, BlocksStored, TierState
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.resident_set import ResidentSet
from shepherd_events.transports.memory import FaultyWire, MemoryBroker, MemoryPublisherTransport
from stream_readers import INFO, STREAM

RUNS, RUN_BLOCKS = 2_000, 8


class Engine:
    """Stores and removes runs, and knows the digest that belongs to every number."""

    def __init__(self, publisher: KvEventPublisher) -> None:
        self._publisher = publisher
        self._random = Random(11)
        self._held: list[array[int]] = []
        self._residents = ResidentSet()
        self.digests: dict[int, tuple[TierState, ...]] = {}

    def store(self) -> None:
        hashes = array("Q", (self._random.getrandbits(64) | 1 for _ in range(RUN_BLOCKS)))
        self._held.append(hashes)
        self._tell(BlocksStored(hashes, None, array("I"), 0))

    def remove(self) -> None:
        at = self._random.randrange(len(self._held))
        self._held[at], self._held[-1] = self._held[-1], self._held[at]
        self._tell(BlocksRemoved(self._held.pop()))

    def _tell(self, event: BlockEvent) -> None:
        self._residents.apply(event)
        self._publisher.publish([event])
        self.digests[self._publisher.head_seq] = self._residents.digest()


async def patiently(client: ControlClient) -> Snapshot:
    """A snapshot, begun again where too many of its chunks got lost."""
    while True:
        try:
            return await client.snapshot()
        except NoAnswerError:
            continue


async def test_row_11_snapshots_are_cut_at_their_number_while_the_engine_goes_on() -> None:
    broker = MemoryBroker(lambda: FaultyWire(Random(2), request_loss=0.1))
    publisher = KvEventPublisher(STREAM, INFO, MemoryPublisherTransport(broker, "here"))
    publisher.start()
    engine, over = Engine(publisher), threading.Event()
    for _ in range(RUNS):
        engine.store()

    def go_on() -> None:
        while not over.is_set():
            engine.store()
            engine.remove()
            over.wait(1e-4)

    mutating = asyncio.create_task(asyncio.to_thread(go_on))
    transport = broker.connect(publisher.address)
    client = ControlClient(STREAM, transport, timeout_s=5.0, page_bytes=20_000)
    try:
        snapshots = [await patiently(client) for _ in range(3)]
    finally:
        over.set()
        await mutating

    for snapshot in snapshots:
        digest = ResidentSet(snapshot.blocks).digest()
        assert digest == engine.digests[snapshot.position.seq]
    assert len({snapshot.position.seq for snapshot in snapshots}) == 3
    await transport.close()
    await asyncio.to_thread(publisher.close, "done")
