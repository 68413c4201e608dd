"""Follow many KV caches at once, and see what one conversation loses.

Two fake workers, whose caches of six blocks are too small for what they are
asked, publish their streams over ZMQ.  A reader finds both in a directory,
shows only what concerns one session, keeps each worker's cache in mind and
compares it with the digest that the heartbeats bring.  Then the same stream is
read once more without asyncio.  No model, no GPU, no Dynamo: with workers of
Dynamo the directory is a `DynamoDirectory`, and all else stays as it is.

Expected output:

    worker-a joined
    worker-b joined
    worker-a  stored    2 blocks of anna
    worker-a  turn 1    of anna: 40 prompt tokens, 0 of them from the cache
    worker-a  removed   1 blocks of anna
    worker-b  stored    2 blocks of anna
    worker-b  turn 1    of anna: 40 prompt tokens, 0 of them from the cache
    worker-b  removed   1 blocks of anna
    worker-a is live with 5 blocks, and the digests are equal
    worker-b is live with 5 blocks, and the digests are equal
    without asyncio: 7 frames of worker-a

    python examples/08_follow_streams.py
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shepherd_events.block_hash import HASH_ALGO
from shepherd_events.discovery import StreamJoined
from shepherd_events.event_filter import EventFilter, StreamFilter
from shepherd_events.events import (
    Attribution,
    BlockBatch,
    BlocksRemoved,
    BlocksStored,
    Frame,
    StreamAddress,
    StreamId,
    StreamInfo,
    TurnCompleted,
)
from shepherd_events.follow import FixedDirectory, StreamFollower, StreamItem, follow
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.stream_cursor import Position
from shepherd_events.subscribe_sync import subscribe_sync
from shepherd_events.transports.zmq import ZmqPublisherTransport
from shepherd_worker.engine import create_engine
from shepherd_worker.engine.protocol import Engine, EngineConfig
from shepherd_worker.event_bridge import EventBridge
from shepherd_worker.request import GenerateRequest, StopConditions

WORKERS = ("worker-a", "worker-b")
ANNA = EventFilter(sessions=frozenset({"anna"}))


@asynccontextmanager
async def worker(name: str) -> AsyncIterator[StreamAddress]:
    """A worker that has served anna and two others."""
    engine = create_engine("fake", EngineConfig(model="demo", num_kv_blocks=6))
    info = await engine.start()
    stream = StreamInfo(model="demo", block_size=info.block_size, hash_algo=HASH_ALGO)
    transport = ZmqPublisherTransport()
    publisher = KvEventPublisher(StreamId(name), stream, transport, heartbeat_s=0.1)
    publisher.start()
    bridge = EventBridge(publisher, router=None, completes_turns=True)
    told = asyncio.create_task(bridge.run(engine))
    for number, session in enumerate(("anna", "bert", "carl")):
        await ask(engine, session, 1 + 40 * number)
    yield publisher.address
    await engine.close()
    await told
    await asyncio.to_thread(publisher.close, "example is over")


async def ask(engine: Engine, session: str, first_token: int) -> None:
    """One request of 40 prompt tokens and 8 generated ones."""
    request = GenerateRequest(
        request_id=f"request-{session}",
        token_ids=array("I", range(first_token, first_token + 40)),
        stops=StopConditions(max_tokens=8, ignore_eos=True),
        origin=Attribution(f"request-{session}", session, tenant="local", turn=1),
    )
    async for _ in engine.generate(request):
        pass


def describe(frame: Frame) -> list[str]:
    """What is left of a frame, in words."""
    match frame.body:
        case TurnCompleted() as turn:
            tokens = f"{turn.prompt_tokens} prompt tokens, {turn.cached_tokens} of them"
            return [f"turn {turn.origin.turn}    of anna: {tokens} from the cache"]
        case BlockBatch(events):
            kinds = {BlocksStored: "stored   ", BlocksRemoved: "removed  "}
            return [
                f"{kinds[type(event)]} {len(event.block_hashes)} blocks of anna"
                for event in events
                if isinstance(event, BlocksStored | BlocksRemoved)
            ]
        case _:
            return []


async def watch(streams: StreamFollower) -> dict[str, list[str]]:
    """What concerns anna, by worker, until nothing is new and every digest was compared."""
    story: dict[str, list[str]] = {name: [] for name in WORKERS}
    filters = {StreamId(name): StreamFilter(ANNA) for name in WORKERS}
    while True:
        try:
            async with asyncio.timeout(0.3):
                change = await anext(streams)
        except TimeoutError:
            if all(followed.counters.digest_checks for followed in streams.streams.values()):
                return story
            continue
        if isinstance(change, StreamJoined):
            print(f"{change.descriptor.address.stream.worker_id} joined")
        elif isinstance(change, StreamItem):
            item = filters[change.stream].apply(change.item)
            assert isinstance(item, Frame | None), "nothing was lost, so nothing is reset"
            story[change.stream.worker_id] += describe(item) if item else []


def read_again(address: StreamAddress, last: Position | None) -> int:
    """How many items a reader without asyncio is given up to a position."""
    with subscribe_sync(address) as stream:
        for number, _ in enumerate(stream, start=1):
            if stream.position == last:
                return number
    raise AssertionError("the stream ends when it is closed")


async def main() -> None:
    """Serve, follow, compare."""
    async with worker(WORKERS[0]) as first, worker(WORKERS[1]) as second:
        directory = FixedDirectory([first, second])
        async with follow(directory, keep_residents=True) as streams:
            story = await watch(streams)
            for name in WORKERS:
                for words in story[name]:
                    print(f"{name}  {words}")
            for name in WORKERS:
                followed = streams.streams[StreamId(name)]
                assert followed.residents is not None
                equal = "differ" if followed.counters.digest_mismatches else "are equal"
                held = len(followed.residents)
                print(f"{name} is {followed.state} with {held} blocks, and the digests {equal}")
        last = streams.streams[first.stream].position
        frames = await asyncio.to_thread(read_again, first, last)
        print(f"without asyncio: {frames} frames of {WORKERS[0]}")


if __name__ == "__main__":
    asyncio.run(main())
